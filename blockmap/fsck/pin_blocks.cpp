// The blocks that hold pin records: the region, and the chain in the data area. Records prove
// where they lie, so what a broken link or header hides is found again. But blocks that left the
// chain keep their old contents until somebody overwrites them: so not where an inode's metadata or
// unwritten blocks are, while a file that has such a block as written claims what is not its own.
#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "blockmap/block_bitmap.h"
#include "blockmap/extent_record.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/claims.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/pin_record_scan.h"

namespace daxfs::fsck {
namespace {

using pmem::PinRegionHeader;
using pmem::PinSpillHeader;

class PinPlaces {
 public:
  explicit PinPlaces(Context& context)
      : context_(context), medium_(context.medium), region_(context.super.pin_region_start) {
    for (const PoolRange& run : context.index_runs) {
      for (PoolBlock b = run.start; b < run.end(); b += BlockCount(1)) seen_.insert(b.value);
    }
  }

  bool run() {
    std::uint64_t next = read_region_header();
    while (next != 0) next = follow(PoolBlock(next));
    if (lost_some_) find_lost();
    if (context_.cancelled()) return false;
    if (!found_.empty()) {
      if (!context_.accept(found_)) return false;
      write();
    }
    context_.pin_blocks = {ready_, chain_};
    return true;
  }

 private:
  template <class Header>
  static bool correct(Header& header, PoolBlock block) {
    return correct_bit_by(header, sizeof header,
                          [&](const Header& h) { return pin_crc(h, slot_of(block, 0)); }) &&
           is_pin_record(header, slot_of(block, 0));
  }

  void found(Severity severity, PoolBlock block, std::string text) {
    found_.push_back({Code::pin_blocks, severity, fmt::format("pin records, block {}", block.value),
                      std::move(text)});
  }

  bool is_possible(const PinRegionHeader& header) const {
    return header.ready_blocks != 0 && header.ready_blocks <= context_.super.pin_region_blocks;
  }

  // The first block of the chain; 0 if there is none or it is not known.
  std::uint64_t read_region_header() {
    auto header = medium_.load<PinRegionHeader>(offset_of(region_));
    bool sealed = is_pin_record(header, slot_of(region_, 0));
    if (!sealed && correct(header, region_)) {
      sealed = true;
      found(Severity::repairable, region_, "one bit of the region's header was wrong; corrected");
    }
    if (sealed && is_possible(header)) {
      ready_ = header.ready_blocks;
      return header.spill;
    }
    ready_ = count_ready();
    found(Severity::repairable, region_,
          "the region's header is destroyed or makes no sense; written anew from the records");
    if (sealed) return header.spill;
    lost_some_ = true;
    return is_linked(header.spill) ? header.spill : 0;
  }

  // What lies behind the last record holds none.
  std::uint64_t count_ready() const {
    std::uint64_t ready = 1;
    for_each_stored({region_, BlockCount(context_.super.pin_region_blocks)}, [&](PoolBlock block) {
      if (holds_record(block)) ready = (block - region_).value + 1;
    });
    return ready;
  }

  // Blocks that may hold something.
  template <class Visit>
  void for_each_stored(PoolRange run, const Visit& visit) const {
    for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
      const bool ask = at == run.start || at.value % pmem::kHugeBlocks == 0;
      if (ask && context_.options.next_data) {
        at = std::max(at, block_of(context_.options.next_data(offset_of(at))));
        if (at >= run.end()) return;
      }
      visit(at);
    }
  }

  bool holds_record(PoolBlock block) const {
    for (std::uint64_t index = 1; index < pmem::kPinSlotsPerBlock; ++index) {
      const PinSlot slot = slot_of(block, index);
      if (medium_.load<std::uint64_t>(offset_of(slot)) == 0) continue;
      if (is_pin_record(medium_.load<pmem::PinHead>(offset_of(slot)), slot) ||
          is_pin_record(medium_.load<pmem::PinContinuation>(offset_of(slot)), slot)) {
        return true;
      }
    }
    return false;
  }

  // Whether a block of the chain lies there, by its own header.
  bool is_linked(std::uint64_t block) const {
    return lies_within(context_.area(), block, 1) &&
           is_pin_record(medium_.load<PinSpillHeader>(offset_of(PoolBlock(block))),
                         slot_of(PoolBlock(block), 0));
  }

  void cut(PoolBlock at, const char* what) {
    lost_some_ = true;
    found(Severity::loss, at,
          fmt::format("the chain {}; cut off there, pins that were recorded in that block are lost",
                      what));
  }

  // The next block of the chain, or 0.
  std::uint64_t follow(PoolBlock block) {
    if (!lies_within(context_.area(), block.value, 1)) {
      return cut(block, "leads out of the data area"), 0;
    }
    if (seen_.contains(block.value)) {
      return cut(block, "leads back into itself or into the inode table"), 0;
    }
    auto header = medium_.load<PinSpillHeader>(offset_of(block));
    std::uint64_t next = header.next;
    if (!is_pin_record(header, slot_of(block, 0))) {
      if (correct(header, block)) {
        next = header.next;
        found(Severity::repairable, block, "one bit of its header was wrong; corrected");
      } else if (holds_record(block)) {
        lost_some_ = true;
        if (!is_linked(next)) next = 0;
        found(Severity::repairable, block, "its header is destroyed; written anew");
      } else {
        return cut(block, "leads to a block that holds no pin records"), 0;
      }
    }
    seen_.insert(block.value);
    chain_.push_back(block);
    return next;
  }

  void find_lost() {
    BlockBitmap claimed(medium_.blocks());
    for_each_claim(context_, "pin records",
                   [&](PoolRange run, const Claimant*) { claimed.mark(run); });
    for_each_claimant(context_, "pin records", [&](Claimant& c) {
      c.map.for_each(kWholeFile, [&](const Extent& extent) {
        if (!extent.unwritten) find_in_file({extent.pool, extent.count});
      });
    });
    for (const PoolBlock block : chain_) claimed.mark({block, BlockCount(1)});
    const PoolRange area = context_.area();
    claimed.for_each_clear(area, [&](PoolRange run) {
      for_each_stored(run, [&](PoolBlock at) {
        const std::uint64_t done = (at - area.start).value;
        if (done % 4096 == 0) context_.tell("free blocks", done, area.count.value);
        if (!context_.cancelled() && holds_record(at)) chain_.push_back(at);
      });
    });
  }

  void find_in_file(PoolRange run) {
    for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
      if (is_linked(at.value) && holds_record(at) && seen_.insert(at.value).second) {
        chain_.push_back(at);
      }
    }
  }

  // From the end of the chain to its head: until the link over the gap is there, the chain is
  // broken as it was.
  void write() {
    Batch batch(context_);
    std::uint64_t next = 0;
    for (auto block = chain_.rbegin(); block != chain_.rend(); ++block) {
      PinSpillHeader header{};
      header.magic = PinSpillHeader::kMagic;
      header.next = next;
      put(batch, *block, header);
      next = block->value;
    }
    PinRegionHeader header{};
    header.magic = PinRegionHeader::kMagic;
    header.ready_blocks = ready_;
    header.spill = next;
    put(batch, region_, header);
  }

  template <class Header>
  void put(Batch& batch, PoolBlock block, Header header) {
    header.crc = pin_crc(header, slot_of(block, 0));
    if (std::memcmp(medium_.at(block), &header, sizeof header) == 0) return;
    batch.write_object(offset_of(block), header);
  }

  Context& context_;
  Medium& medium_;
  const PoolBlock region_;
  std::uint64_t ready_ = 0;
  std::vector<PoolBlock> chain_;
  absl::flat_hash_set<std::uint64_t> seen_;  // and what cannot be of the chain
  bool lost_some_ = false;
  std::vector<Finding> found_;
};

}  // namespace

bool find_pin_blocks(Context& context) { return PinPlaces(context).run(); }

}  // namespace daxfs::fsck
