#include "blockmap/fsck/inspect_extents.h"

#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "blockmap/extent_record.h"
#include "blockmap/fsck/bit_repair.h"

namespace daxfs::fsck {
namespace {

using pmem::ExtentBlock;
using pmem::ExtentRecord;

constexpr std::size_t kHeaderBytes = offsetof(ExtentBlock, slots);
constexpr std::size_t kMaxChain = (1u << 31) / ExtentBlock::kSlots - 1;

class Inspector {
 public:
  Inspector(const Medium& medium, PoolRange area, InodeNumber inode, PoolOffset place)
      : medium_(medium), area_(area), inode_(inode), place_(place) {}

  ExtentsPlan run(std::uint64_t head, bool only_evidence) {
    walk_chain(head, only_evidence);
    check_slots(place_ + ByteCount(offsetof(pmem::InodeSlot, extents)), pmem::kInlineExtents);
    for (const PoolBlock block : plan_.chain) {
      check_slots(offset_of(block) + ByteCount(kHeaderBytes), ExtentBlock::kSlots);
    }
    resolve_overlaps();
    for (const Found& f : found_) plan_.extents.push_back(to_extent(f.record));
    return std::move(plan_);
  }

 private:
  struct Found {
    ExtentRecord record;
    PoolOffset at;
  };

  static Extent to_extent(const ExtentRecord& record) {
    return {FileBlock(record.file_block), PoolBlock(record.pool_block), BlockCount(record.count),
            (record.flags & pmem::kExtentUnwritten) != 0};
  }

  void report(Code code, Severity severity, std::string text) {
    plan_.findings.push_back({code, severity, name_of(inode_), std::move(text)});
  }

  void fix_header(PoolBlock block, ExtentBlock& content) {
    seal(content, kHeaderBytes);
    InodePlan::HeaderFix fix{block, {}};
    std::memcpy(fix.header.data(), &content, kHeaderBytes);
    // A block that is corrected and then cut off from the next is changed once. Nothing is fixed in
    // between: what it is cut off from did not turn out to be a block of the chain.
    if (!plan_.headers.empty() && plan_.headers.back().block == block) plan_.headers.pop_back();
    plan_.headers.push_back(fix);
  }

  bool leads_to_chain(std::uint64_t block) const {
    return block != 0 && lies_within(area_, block, 1) &&
           is_sound_header(medium_.load<ExtentBlock>(offset_of(PoolBlock(block))), inode_);
  }

  bool has_own_slot(const ExtentBlock& content) const {
    return std::ranges::any_of(content.slots, [&](const ExtentRecord& record) {
      return is_plausible(record, inode_, area_);
    });
  }

  // Makes the header good if it is not. False: this is no block of the chain.
  bool check_header(PoolBlock block, ExtentBlock& content) {
    if (is_sound_header(content, inode_)) return true;
    if (ExtentBlock corrected = content;
        correct_bit(corrected, kHeaderBytes) && is_sound_header(corrected, inode_)) {
      content = corrected;
      fix_header(block, content);
      report(Code::extent_chain, Severity::repairable,
             fmt::format("one bit of the header of its extent block {} was wrong; corrected",
                         block.value));
      return true;
    }
    if (!has_own_slot(content)) return false;
    // Its records name this inode, so the block is ours; where the chain goes on is believed only
    // if an extent block of ours lies there.
    const std::uint64_t next = content.next;
    const bool goes_on = leads_to_chain(next);
    std::memset(static_cast<void*>(&content), 0, kHeaderBytes);
    content.magic = ExtentBlock::kMagic;
    content.inode = inode_.value;
    content.next = goes_on ? next : 0;
    fix_header(block, content);
    report(
        Code::extent_chain, Severity::loss,
        fmt::format("the header of its extent block {} is destroyed; written anew{}", block.value,
                    goes_on ? "" : ", what followed it in the chain is lost and reads as zeroes"));
    return true;
  }

  void walk_chain(std::uint64_t head, bool only_evidence) {
    plan_.head = head;
    absl::flat_hash_set<std::uint64_t> seen;
    PoolBlock before(0);
    ExtentBlock before_content{};
    for (std::uint64_t block = head; block != 0;) {
      ExtentBlock content{};
      const char* broken = nullptr;
      if (!lies_within(area_, block, 1)) {
        broken = "leads out of the data area";
      } else if (seen.contains(block) || plan_.chain.size() >= kMaxChain) {
        broken = "leads back into itself";
      } else {
        content = medium_.load<ExtentBlock>(offset_of(PoolBlock(block)));
        if (!check_header(PoolBlock(block), content)) broken = "leads to no extent block of it";
      }
      if (broken != nullptr) {
        if (before.value == 0) {
          plan_.head = 0;
        } else {
          before_content.next = 0;
          fix_header(before, before_content);
        }
        if (!only_evidence || before.value != 0) {
          report(Code::extent_chain, Severity::loss,
                 fmt::format("the chain of its extent blocks {} (block {}); cut off there, what "
                             "followed is lost and reads as zeroes",
                             broken, block));
        }
        return;
      }
      seen.insert(block);
      plan_.chain.push_back(PoolBlock(block));
      before = PoolBlock(block);
      before_content = content;
      block = content.next;
    }
  }

  void check_slots(PoolOffset first, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const PoolOffset at = first + ByteCount(i * sizeof(ExtentRecord));
      auto record = medium_.load<ExtentRecord>(at);
      if (is_free(record)) continue;
      if (!is_plausible(record, inode_, area_)) {
        if (ExtentRecord corrected = record;
            correct_bit(corrected) && is_plausible(corrected, inode_, area_)) {
          record = corrected;
          plan_.slots.push_back({at, record});
          report(Code::extent_record, Severity::repairable,
                 fmt::format("one bit of the extent at its block {} was wrong; corrected",
                             record.file_block));
        } else {
          plan_.slots.push_back({at, {}});
          report(Code::extent_record, Severity::loss,
                 is_sealed(record)
                     ? "an extent of it makes no sense; removed, the blocks read as zeroes"
                     : "an extent of it is destroyed; removed, the blocks read as zeroes");
          continue;
        }
      }
      if (record.count > area_.count.value - mapped_) {
        plan_.slots.push_back({at, {}});
        report(Code::extent_record, Severity::loss,
               "its extents claim more than the pool has; one removed");
        continue;
      }
      mapped_ += record.count;
      found_.push_back({record, at});
    }
  }

  // Two extents for the same blocks of the file: the one that begins first keeps them.
  void resolve_overlaps() {
    std::ranges::stable_sort(found_, {}, [](const Found& f) { return f.record.file_block; });
    std::vector<Found> kept;
    std::uint64_t end = 0;
    for (Found& f : found_) {
      ExtentRecord& record = f.record;
      if (record.file_block < end) {
        report(Code::extent_overlap, Severity::loss,
               fmt::format("two extents of it claim its block {}; the first one keeps it",
                           record.file_block));
        const std::uint64_t cut = std::min<std::uint64_t>(end - record.file_block, record.count);
        record.file_block += cut;
        record.pool_block += cut;
        record.count -= static_cast<std::uint32_t>(cut);
        if (record.count == 0) {
          plan_.slots.push_back({f.at, {}});
          continue;
        }
        seal(record);
        plan_.slots.push_back({f.at, record});
      }
      end = record.file_block + record.count;
      kept.push_back(f);
    }
    found_ = std::move(kept);
  }

  const Medium& medium_;
  const PoolRange area_;
  const InodeNumber inode_;
  const PoolOffset place_;
  ExtentsPlan plan_;
  std::vector<Found> found_;
  std::uint64_t mapped_ = 0;
};

}  // namespace

ExtentsPlan inspect_extents(const Medium& medium, PoolRange data_area, InodeNumber inode,
                            PoolOffset place, std::uint64_t head, bool only_evidence) {
  return Inspector(medium, data_area, inode, place).run(head, only_evidence);
}

}  // namespace daxfs::fsck
