#include "blockmap/volume/volume.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/block_ranges.h"
#include "base/crc32c.h"
#include "blockmap/layout.h"
#include "blockmap/volume/former_doorbells.h"
#include "blockmap/volume/rebuild.h"
#include "blockmap/volume/recover_inodes.h"

namespace daxfs {
namespace {

std::vector<PoolRange> blocks_of(const std::vector<SurvivingPin>& survivors) {
  std::vector<PoolRange> blocks;
  for (const SurvivingPin& survivor : survivors) {
    blocks.insert(blocks.end(), survivor.blocks.begin(), survivor.blocks.end());
  }
  return to_set(std::move(blocks));
}

// Tells each survivor which of its blocks nobody owns.
void tell_unowned(std::vector<SurvivingPin>& survivors, const std::vector<PoolRange>& limbo) {
  if (limbo.empty()) return;
  std::vector<PoolRange> owned;
  for (SurvivingPin& survivor : survivors) {
    owned.clear();
    for (const PoolRange& range : to_set(survivor.blocks)) {
      split(range, limbo, survivor.unowned, owned);
    }
  }
}

}  // namespace

Outcome<void> check_features(const pmem::PoolState& state) {
  const auto unknown = state.incompatible & ~pmem::kKnownIncompatible;
  if (unknown == 0 || !is_sealed(state)) return {};
  return problem(
      EINVAL, fmt::format("pool state: incompatible feature bits {:#x}; use the newer daxfs that "
                          "has used this pool",
                          unknown));
}

Volume::Volume(Medium& medium, const pmem::Superblock& super, bool read_only)
    : medium_(medium),
      super_(super),
      read_only_(read_only),
      features_(super.incompatible_features) {}

Outcome<std::unique_ptr<Volume>> Volume::open(Medium& medium, const std::string& name,
                                              bool read_only, unsigned threads,
                                              const OwnerAlive& alive, const PinLocked& locked) {
  auto super = read_superblock(medium, name);
  if (!super) return std::unexpected(std::move(super.error()));
  std::unique_ptr<Volume> volume(new Volume(medium, *super, read_only));
  const auto mount = [&]() -> Outcome<void> {
    try {
      return volume->mount(threads, alive, locked);
    } catch (const std::bad_alloc&) {
      return problem(ENOMEM, "not enough memory to open the pool; free some and try again");
    }
  };
  auto mounted = mount();
  // Whatever else seems wrong then follows from it.
  if (medium.failed()) return problem(EIO, fmt::format("pool {}: {}", name, medium.failure()));
  if (!mounted) {
    return problem(mounted.error().code, fmt::format("{}: {}", name, mounted.error().text));
  }
  return volume;
}

Outcome<void> Volume::mount(unsigned threads, const OwnerAlive& alive, const PinLocked& locked) {
  const auto state_now = [this] { return medium_.load<pmem::PoolState>(offset_of(kStateBlock)); };
  // Before anything is changed, and again: the journal may hold the state.
  if (auto known = check_features(state_now()); !known) return known;
  if (auto replayed = replay_journal(); !replayed) return replayed;

  const auto state = state_now();
  if (!is_sealed(state)) {
    return problem(EUCLEAN, "pool state: checksum does not match; run fsck.daxfs");
  }
  if (auto known = check_features(state); !known) return known;
  report_.was_clean = (state.flags & pmem::kStateClean) != 0;

  journal_ = std::make_unique<Journal>(medium_, journal_geometry(super_));
  allocator_ = std::make_unique<Allocator>(medium_);
  inodes_ = std::make_unique<InodeTable>(medium_, *journal_, *allocator_, super_, state);
  pin_records_ = std::make_unique<PinRecords>(medium_, *journal_, *allocator_, super_, read_only_);
  PinnedSpace pins;
  auto survivors = pin_records_->open(alive, locked, pins.records);
  if (!survivors) return std::unexpected(survivors.error());
  survivors_ = std::move(*survivors);
  pins.kept = blocks_of(survivors_);
  const auto unfinished = rebuild(medium_, *allocator_, *inodes_, data_area(), threads, pins);
  if (!unfinished) return std::unexpected(unfinished.error());

  const auto root = inodes_->load(kRootInode);
  if (!root || (root->mode & S_IFMT) != S_IFDIR || root->links == 0) {
    return problem(EUCLEAN, "inode 1: the root directory is missing; run fsck.daxfs");
  }
  if (!read_only_) {
    // Not clean from here on, and that is durable before anything else changes.
    const bool doorbells =
        std::ranges::any_of(survivors_, [](const SurvivingPin& s) { return s.pin.doorbell; });
    if (!inodes_->set_state_flags(state.flags & ~pmem::kStateClean, true,
                                  doorbells ? pmem::kPoolDoorbells : 0)) {
      return problem(EIO, "pool state: it cannot be written; nothing was changed");
    }
    if (!settle_features()) return problem(EIO, "the superblock cannot be written");
    pin_records_->settle();
    close_former_doorbells(*this, survivors_, pins);
    if (auto recovered = recover_inodes(*this, *unfinished, pins); !recovered) return recovered;
    report_.orphans_freed = unfinished->orphans.size();
    report_.detaches_finished = unfinished->detaches.size();
  }
  survivors_limbo_ = to_set(std::move(pins.unowned));
  tell_unowned(survivors_, survivors_limbo_);
  report_.inodes = inodes_->used();
  return {};
}

Outcome<void> Volume::replay_journal() {
  const Journal::Geometry geometry = journal_geometry(super_);
  const auto replayed =
      read_only_ ? Journal::pending(medium_, geometry) : Journal::recover(medium_, geometry);
  if (!replayed) return std::unexpected(replayed.error());
  if (read_only_ && *replayed != 0) {
    return problem(EROFS,
                   fmt::format("the journal holds {} changes of an interrupted mount; mount it "
                               "read-write once, or run fsck.daxfs",
                               *replayed));
  }
  report_.replayed = *replayed;
  return {};
}

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

PoolRange Volume::data_area() const { return daxfs::data_area(super_); }

void Volume::close_clean() {
  // What could not be made durable must not be called clean.
  if (read_only_ || medium_.failed()) return;
  // If it fails, it is not clean, and the next mount says so.
  const bool recorded = pin_records_->slots_used() != 0;
  static_cast<void>(inodes_->set_state_flags(
      pmem::kStateClean, false, recorded ? std::nullopt : std::optional<std::uint64_t>(0)));
}

}  // namespace daxfs
