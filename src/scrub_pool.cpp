// What is not an inode: superblocks, journal, pool state; pins; and each block's one place.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <shared_mutex>

#include "base/block_ranges.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/pin_record_scan.h"
#include "src/scrub.h"

namespace daxfs {
namespace {

constexpr std::size_t kPinsAtOnce = 64;
constexpr BlockCount kBlocksAtOnce(1 << 16);
constexpr std::size_t kMostOrphaned = 10'000;

std::string name_of(PoolRange range) {
  if (range.count.value == 1) return fmt::format("block {}", range.start.value);
  return fmt::format("blocks {} to {}", range.start.value, range.end().value - 1);
}

std::string name_of(const PinInfo& pin) {
  return fmt::format("pin {} of process {} on inode {}", pin.id.value, pin.requester.process,
                     pin.inode.value);
}

}  // namespace

void Scrub::check_superblocks() {
  // Nothing that it finds may be repaired here, so nothing is written.
  fsck::Options options;
  options.repair_up_to = Severity::harmless;
  fsck::Report report;
  fsck::Context context(volume_.medium(), options, report);
  volume_.while_features_stay([&] {
    const auto checked = fsck::check_superblocks(context, "the pool");
    if (!checked) found("superblock", Severity::fatal, "superblock", checked.error().text);
  });
  for (const fsck::Finding& finding : report.findings) found(finding);
}

void Scrub::check_pool() {
  for (const std::uint32_t lane : volume_.journal().left_over()) {
    found("journal-lane", Severity::loss, fmt::format("journal lane {}", lane),
          "holds a change that is not under way: the next mount would make it", Spreads::yes);
  }
}

void Scrub::check_places() {
  std::vector<PoolRange> runs;
  const auto places = volume_.inodes().verify(runs);
  if (!places && at_.phase == Phase::pool) {
    found("pool-state", Severity::loss, "inode table", places.error().text);
  }
  claim_from_allocator("the inode table", runs);
  const auto records = volume_.pin_records().verify([&](const std::vector<PoolRange>& blocks) {
    claim_from_allocator("the pin records", blocks);
  });
  if (!records && at_.phase == Phase::pool) {
    found("pin-blocks", Severity::repairable, "pin records", records.error().text);
  }
}

void Scrub::next_pins() {
  std::vector<PinInfo> some;
  const auto last = fs_.gate().audit_pins(
      at_.pin, kPinsAtOnce,
      [&](const PinInfo& pin, std::span<const PoolRange> blocks,
          std::optional<PoolRange> uncounted) {
        some.push_back(pin);
        if (uncounted) {
          found("pin-counts", Severity::loss, name_of(pin),
                fmt::format("has {}, which is not counted as pinned", name_of(*uncounted)),
                Spreads::yes);
        }
        // pin_policy=ignore frees what is pinned.
        const auto free =
            fs_.mount().options.unsafe_demo ? std::nullopt : volume_.allocator().find_free(blocks);
        if (free) {
          found("free-block", Severity::loss, name_of(pin),
                fmt::format("has {}, which is in the free space", name_of(*free)), Spreads::yes);
        }
        look_at_record(pin);
      });
  for (const PinInfo& pin : some) look_at_pin(pin);
  tally_.pins += some.size();
  if (!last || tally_.pins >= at_.pins_to_look_at) return begin_phase(Phase::blocks);
  at_.pin = *last;
}

// Precondition: the pin does not end meanwhile.
void Scrub::look_at_record(const PinInfo& pin) {
  if (pin.record == 0) return;
  const PinSlot slot{pin.record};
  const auto head = volume_.medium().load<pmem::PinHead>(offset_of(slot));
  if (is_pin_record(head, slot) && head.pin_id == pin.id.value) return;
  found("pin-record", Severity::loss, name_of(pin),
        "is not recorded in the pool as it should be: after a crash its blocks would be free");
}

// Its blocks must be its file's, or in limbo. (Whether there is a file to lock is found out on the
// way: the compiler cannot follow.)
void Scrub::look_at_pin(const PinInfo& pin) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (fs_.mount().options.unsafe_demo) return;
  const auto ref = fs_.inodes().get(pin.inode);
  std::shared_lock<FairSharedMutex> guard;
  std::vector<PoolRange> of_file;
  if (ref) {
    if (!fs_.inodes().load_extents(**ref)) return;
    guard = std::shared_lock((*ref)->lock);
    of_file = to_set((*ref)->extents->physical(covering(pin.offset, pin.length)));
  } else if (volume_.inodes().valid(pin.inode) &&
             volume_.medium().load<pmem::InodeRecord>(volume_.inodes().slot(pin.inode)).mode != 0) {
    return;  // damaged: told elsewhere
  }
  const auto blocks = fs_.gate().pin_blocks(pin.holder, pin.id);
  if (!blocks) return;
  std::vector<PoolRange> inside;
  std::vector<PoolRange> outside;
  for (const PoolRange& run : *blocks) split(run, of_file, inside, outside);
  std::vector<PoolRange> nowhere;
  for (const PoolRange& run : outside) {
    const auto limbo = to_set(fs_.gate().limbo_within(run, [](PoolRange, PinCounts) {}));
    split(run, limbo, inside, nowhere);
  }
  // It was pinned all the time, if it still is.
  if (nowhere.empty() || !fs_.gate().find_pin(pin.holder, pin.id)) return;
  found("pin-counts", Severity::loss, name_of(pin),
        fmt::format("has {}, which is neither its file's nor in limbo: it may be somebody else's",
                    name_of(nowhere.front())),
        Spreads::yes);
}

void Scrub::next_blocks() {
  const PoolRange area = volume_.data_area();
  const PoolRange group{at_.block, std::min(kBlocksAtOnce, area.end() - at_.block)};
  fs_.gate().limbo_within(group, [&](PoolRange piece, PinCounts pins) {
    if (pins.none()) {
      found("pin-counts", Severity::repairable, name_of(piece), "in limbo, but not pinned");
    }
    if (const auto free = volume_.allocator().find_free({&piece, 1})) {
      found("free-block", Severity::loss, name_of(*free), "in limbo and in the free space",
            Spreads::yes);
    }
  });
  append_orphaned(group, orphaned_);
  if (orphaned_.size() > kMostOrphaned) orphaned_.resize(kMostOrphaned);
  at_.block += group.count;
}

void Scrub::append_orphaned(PoolRange run, std::vector<PoolRange>& out) {
  // In this order: what leaves limbo meanwhile comes to the free space.
  const auto limbo = to_set(fs_.gate().limbo_within(run, [](PoolRange, PinCounts) {}));
  std::vector<PoolRange> inside;
  for (const PoolRange& used : volume_.allocator().in_use_since_watch(run)) {
    owned_.for_each_clear(used, [&](PoolRange piece) { split(piece, limbo, inside, out); });
  }
}

void Scrub::judge_suspects() {
  std::vector<PoolRange> lost;
  for (const PoolRange& range : orphaned_) append_orphaned(range, lost);
  for (const PoolRange& range : lost) {
    found("lost-blocks", Severity::repairable, name_of(range),
          "in no file, not free and not in limbo; free again after the next mount");
  }
  for (const Shared& shared : shared_) {
    if (shared.by.size() < 2 || volume_.allocator().in_use_since_watch(shared.range).empty()) {
      continue;
    }
    found("shared-blocks", Severity::loss, name_of(shared.range),
          fmt::format("used {} times, by {}", shared.by.size(), fmt::join(shared.by, " and by ")),
          Spreads::yes);
  }
}

}  // namespace daxfs
