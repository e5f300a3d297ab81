// Each pin record. One that can be believed, of a living process, keeps its blocks out of the free
// space; one that cannot be believed is dropped, and said so: its holder may go on writing to
// blocks that others get.
#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "base/block_ranges.h"
#include "base/pinned_pages.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/pin_record_scan.h"

namespace daxfs::fsck {
namespace {

using pmem::PinContinuation;
using pmem::PinHead;

constexpr std::uint64_t kMaxOffset = std::numeric_limits<std::int64_t>::max();

class PinSlots {
 public:
  explicit PinSlots(Context& context)
      : context_(context),
        medium_(context.medium),
        was_clean_((context.medium.load<pmem::PoolState>(offset_of(kStateBlock)).flags &
                    pmem::kStateClean) != 0) {
    for (const PoolBlock block : context.pin_blocks.chain) chained_.insert(block.value);
  }

  void run() {
    for_each_slot([&](PinSlot slot) { check_checksum(slot); });
    for_each_slot([&](PinSlot slot) {
      const auto head = medium_.load<PinHead>(offset_of(slot));
      if (is_pin_record(head, slot)) check_pin(slot, head);
    });
    if (changed_) medium_.fence();
    context_.pins = {};
    context_.pins.kept = to_set(std::move(kept_));
    for (const PoolBlock block : context_.pin_blocks.chain) {
      context_.pins.records.push_back({block, BlockCount(1)});
    }
  }

 private:
  // Slots in use.
  template <class Visit>
  void for_each_slot(const Visit& visit) {
    const PinBlocks& blocks = context_.pin_blocks;
    const std::uint64_t total = blocks.ready + blocks.chain.size();
    for (std::uint64_t i = 0; i < total; ++i) {
      if (context_.cancelled()) return;
      if (i % 1024 == 0) context_.tell("pin records", i, total);
      const PoolBlock block = i < blocks.ready ? PoolBlock(context_.super.pin_region_start + i)
                                               : blocks.chain[i - blocks.ready];
      for (std::uint64_t index = 1; index < pmem::kPinSlotsPerBlock; ++index) {
        const PinSlot slot = slot_of(block, index);
        if (medium_.load<std::uint64_t>(offset_of(slot)) != 0) visit(slot);
      }
    }
  }

  bool found(PinSlot slot, Severity severity, std::string text) {
    return context_.accept(Code::pin_record, severity,
                           fmt::format("pin record at byte {}", offset_of(slot).value),
                           std::move(text));
  }

  // As the filesystem does it: one atomic word decides, without the journal.
  void drop(PinSlot slot) {
    medium_.store_u64(offset_of(slot), 0);
    changed_ = true;
  }

  template <class Record>
  bool correct(PinSlot slot) {
    auto record = medium_.load<Record>(offset_of(slot));
    if (!correct_bit_by(record, sizeof record, [&](const Record& r) { return pin_crc(r, slot); }) ||
        !is_pin_record(record, slot)) {
      return false;
    }
    if (found(slot, Severity::repairable, "one bit of it was wrong; corrected")) {
      medium_.store(offset_of(slot), std::as_bytes(std::span(&record, 1)));
      changed_ = true;
    }
    return true;
  }

  void check_checksum(PinSlot slot) {
    if (is_pin_record(medium_.load<PinHead>(offset_of(slot)), slot) ||
        is_pin_record(medium_.load<PinContinuation>(offset_of(slot)), slot) ||
        correct<PinHead>(slot) || correct<PinContinuation>(slot)) {
      return;
    }
    // A process that was pinning when the daemon ended was told of no success.
    const bool dropped =
        was_clean_
            ? found(slot, Severity::loss,
                    "is destroyed; dropped: if its process lives, others may get blocks that "
                    "it still has pinned")
            : found(slot, Severity::harmless,
                    "was being written when the pool was left (or is damaged); dropped");
    if (dropped) drop(slot);
  }

  void check_pin(PinSlot slot, const PinHead& head) {
    std::vector<PoolRange> blocks;
    const char* const wrong = collect(head, blocks);
    const bool lives = is_in_use(head);
    if (wrong == nullptr) {
      if (lives) kept_.insert(kept_.end(), blocks.begin(), blocks.end());
      return;
    }
    // A crash leaves pins that lack a part, but none that make no sense.
    const bool torn = wrong == kLacksPart && !was_clean_;
    const Severity severity = torn    ? Severity::harmless
                              : lives ? Severity::loss
                                      : Severity::repairable;
    const std::string cost =
        torn || !lives
            ? std::string()
            : fmt::format(
                  ": {} may live, and others get blocks that it still has pinned",
                  head.process != 0 ? fmt::format("process {}", head.process) : "its holder");
    if (found(slot, severity, fmt::format("{}; dropped{}", wrong, cost))) drop(slot);
  }

  // What is wrong with a pin, or nullptr; then its blocks. Its continuations are claimed in any
  // case, as a mount does it: both agree about who comes first, and none is walked over twice.
  const char* collect(const PinHead& head, std::vector<PoolRange>& blocks) {
    if (names_nobody(head)) return "names no process";
    if (head.inode == 0) return "names no inode";
    if (head.offset > kMaxOffset || head.length > kMaxOffset) return "has an impossible range";
    if (const char* what = pmem::wrong_flags(head)) return what;
    if (head.runs != 0 && !add(head.first, blocks)) return kOutside;

    std::uint64_t next = head.next;
    for (std::size_t left = head.runs - blocks.size(); left > 0;) {
      const PinSlot slot{next};
      if (!may_hold(slot)) return "goes on outside the pin records";
      const auto more = medium_.load<PinContinuation>(offset_of(slot));
      if (!is_pin_record(more, slot) || more.sequence != head.sequence) return kLacksPart;
      const std::size_t expected = std::min(left, PinContinuation::kRuns);
      if (more.count != expected) return "goes on with another number of runs";
      if (!claimed_.insert(next).second) return "goes on where another one does";
      for (std::size_t i = 0; i < expected; ++i) {
        if (!add(more.runs[i], blocks)) return kOutside;
      }
      left -= expected;
      next = more.next;
    }
    return next == 0 ? nullptr : "goes on behind its end";
  }

  bool add(const pmem::PinnedRun& run, std::vector<PoolRange>& blocks) const {
    if (run.count == 0 || !lies_within(context_.area(), run.block, run.count)) return false;
    blocks.push_back({PoolBlock(run.block), BlockCount(run.count)});
    return true;
  }

  bool may_hold(PinSlot slot) const {
    const std::uint64_t block = block_of(slot).value;
    const std::uint64_t start = context_.super.pin_region_start;
    return index_of(slot) != 0 && (chained_.contains(block) ||
                                   (block >= start && block - start < context_.pin_blocks.ready));
  }

  static bool names_nobody(const PinHead& head) {
    return (head.process == 0 && head.start_time != 0) ||
           head.process > std::numeric_limits<std::int32_t>::max();
  }

  bool is_in_use(const PinHead& head) {
    if (names_nobody(head)) return false;
    PinOwner owner{
        static_cast<pid_t>(head.process), head.start_time, {}, head.uid, head.pid_namespace};
    std::memcpy(owner.boot.data(), head.boot.data(), head.boot.size());
    const auto [known, fresh] = alive_.try_emplace(owner, false);
    if (fresh) known->second = may_be_in_use(owner);
    const auto& locked = context_.options.locked;
    return known->second || (locked && locked(head.pin_id));
  }

  static constexpr const char* kLacksPart = "lacks a part";
  static constexpr const char* kOutside = "names blocks outside the data area";

  Context& context_;
  Medium& medium_;
  const bool was_clean_;
  absl::flat_hash_set<std::uint64_t> chained_;
  absl::flat_hash_set<std::uint64_t> claimed_;  // positions of continuations
  std::map<PinOwner, bool> alive_;              // a million pins of one process are one question
  std::vector<PoolRange> kept_;
  bool changed_ = false;
};

}  // namespace

void check_pins(Context& context) {
  if (!find_pin_blocks(context)) return;
  PinSlots(context).run();
}

}  // namespace daxfs::fsck
