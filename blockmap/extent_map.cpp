#include "blockmap/extent_map.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <limits>

#include "base/crc32c.h"
#include "base/pieces.h"
#include "base/require.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kMaxCount = std::numeric_limits<std::uint32_t>::max();

// Whether `b` goes on in file and pool where `a` ends, so that one record can hold both.
bool runs_on(const Extent& a, const Extent& b) {
  return a.end() == b.file && a.pool + a.count == b.pool && a.unwritten == b.unwritten &&
         a.count.value + b.count.value <= kMaxCount;
}

FileRange overlap(const Extent& extent, FileRange range) {
  const FileBlock begin = std::max(extent.file, range.start);
  return {begin, std::min(extent.end(), range.end()) - begin};
}

Extent cut_to(const Extent& extent, FileRange range) {
  const FileRange part = overlap(extent, range);
  return {part.start, extent.pool + (part.start - extent.file), part.count, extent.unwritten};
}

}  // namespace

ExtentMap::ExtentMap(Medium& medium, Allocator& allocator, InodeNumber inode, PoolOffset slot)
    : medium_(&medium),
      allocator_(&allocator),
      inode_(inode),
      slot_(slot),
      free_slots_{3, 2, 1, 0} {
  static_assert(pmem::kInlineExtents == 4);
}

Extent ExtentMap::extent_at(Index::const_iterator it) {
  return {it->first, it->second.pool, BlockCount(it->second.count), it->second.unwritten()};
}

FileBlock ExtentMap::end_of(const Index::value_type& extent) {
  return extent.first + BlockCount(extent.second.count);
}

ExtentMap::Node ExtentMap::make_node(const Extent& extent, std::uint32_t slot) {
  return {extent.pool, static_cast<std::uint32_t>(extent.count.value),
          slot << 1 | (extent.unwritten ? 1u : 0u)};
}

// --- questions ---

// The first extent whose end lies behind `at`.
ExtentMap::Index::const_iterator ExtentMap::first_behind(FileBlock at) const {
  return first_ending_behind(extents_, at, end_of);
}

ExtentMap::Index::iterator ExtentMap::first_behind(FileBlock at) {
  return first_ending_behind(extents_, at, end_of);
}

ExtentMap::Run ExtentMap::run_at(FileBlock at, BlockCount limit) const {
  const auto it = first_behind(at);
  if (it == extents_.end()) return {{at, limit}, std::nullopt, false};
  if (it->first > at) return {{at, std::min(limit, it->first - at)}, std::nullopt, false};
  const Extent extent = extent_at(it);
  const BlockCount into = at - extent.file;
  return {{at, std::min(limit, extent.count - into)}, extent.pool + into, extent.unwritten};
}

void ExtentMap::for_each(FileRange range, const std::function<void(const Extent&)>& visit) const {
  for (auto it = first_behind(range.start); it != extents_.end() && it->first < range.end(); ++it) {
    visit(cut_to(extent_at(it), range));
  }
}

std::optional<Extent> ExtentMap::first_from(FileBlock at) const {
  const auto it = first_behind(at);
  if (it == extents_.end()) return std::nullopt;
  return extent_at(it);
}

std::optional<Extent> ExtentMap::last() const {
  if (extents_.empty()) return std::nullopt;
  return extent_at(std::prev(extents_.end()));
}

std::vector<PoolRange> ExtentMap::physical(FileRange range) const {
  std::vector<PoolRange> out;
  for (auto it = first_behind(range.start); it != extents_.end() && it->first < range.end(); ++it) {
    const Extent part = cut_to(extent_at(it), range);
    out.push_back({part.pool, part.count});
  }
  return out;
}

// --- slots ---

PoolOffset ExtentMap::slot_offset(PoolOffset inode_slot, const std::vector<PoolBlock>& chain,
                                  std::uint32_t slot) {
  if (slot < pmem::kInlineExtents) {
    return inode_slot +
           ByteCount(offsetof(pmem::InodeSlot, extents) + slot * sizeof(pmem::ExtentRecord));
  }
  const std::size_t index = slot - pmem::kInlineExtents;
  return offset_of(chain[index / pmem::ExtentBlock::kSlots]) +
         ByteCount(offsetof(pmem::ExtentBlock, slots) +
                   index % pmem::ExtentBlock::kSlots * sizeof(pmem::ExtentRecord));
}

std::uint32_t ExtentMap::take_slot() {
  // Going on would lose an extent; the transaction is not committed yet, so stopping loses nothing.
  DAXFS_REQUIRE(!free_slots_.empty(), "inode {}: no slot was reserved for an extent", inode_.value);
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void ExtentMap::stage(Transaction& tx, Index::const_iterator it) const {
  pmem::ExtentRecord record{};
  record.file_block = it->first.value;
  record.pool_block = it->second.pool.value;
  record.count = it->second.count;
  record.flags = it->second.unwritten() ? pmem::kExtentUnwritten : 0;
  record.inode_low = static_cast<std::uint32_t>(inode_.value);
  seal(record);
  tx.write_object(slot_offset(slot_, chain_, it->second.slot()), record);
}

void ExtentMap::stage_empty(Transaction& tx, std::uint32_t slot) {
  tx.write_object(slot_offset(slot_, chain_, slot), pmem::ExtentRecord{});
  free_slots_.push_back(slot);
}

Status ExtentMap::reserve(pmem::InodeRecord& record, std::size_t slots) {
  if (free_slots_.size() >= slots) return {};
  constexpr std::size_t kSlots = pmem::ExtentBlock::kSlots;
  const std::size_t missing = slots - free_slots_.size();
  const std::size_t blocks = missing / kSlots + (missing % kSlots != 0 ? 1 : 0);
  const std::size_t first_slot = pmem::kInlineExtents + chain_.size() * kSlots;
  if (blocks > (kMaxSlots - first_slot) / kSlots) return fail(ENOSPC);

  std::vector<PoolRange> runs;
  if (Status taken = allocator_->allocate(BlockCount(blocks), PoolBlock(0), runs); !taken) {
    return taken;
  }
  for (const PoolRange& run : runs) {
    for (PoolBlock block = run.start; block < run.end(); block += BlockCount(1)) {
      pmem::ExtentBlock content{};
      content.magic = pmem::ExtentBlock::kMagic;
      content.inode = inode_.value;
      content.next = record.extent_block;
      seal(content, offsetof(pmem::ExtentBlock, slots));
      medium_->write(offset_of(block), std::as_bytes(std::span(&content, 1)));
      record.extent_block = block.value;
      chain_.push_back(block);
    }
  }
  medium_->fence();

  // The lowest id last, so that it is used first; what was free before is used before the new ones.
  std::vector<std::uint32_t> added(blocks * kSlots);
  for (std::size_t i = 0; i < added.size(); ++i) {
    added[i] = static_cast<std::uint32_t>(first_slot + added.size() - 1 - i);
  }
  free_slots_.insert(free_slots_.begin(), added.begin(), added.end());
  return {};
}

// Extents that lie wholly in the range keep their slots, and those that it cuts are its first one
// and its last one:
//
//   |##|uuuuuu[uuuuuu]     one slot, unless a written extent runs on behind the range
//   [uuuuuu]uuuuuu|        one slot, unless a written extent runs on before the range
//   |uuu[uuuuuu]uuu|       two slots
std::size_t ExtentMap::slots_to_write(FileRange range) const {
  if (range.empty()) return 0;
  const auto written = [](Extent extent) {
    extent.unwritten = false;
    return extent;
  };
  std::size_t slots = 0;
  const auto first = first_behind(range.start);
  if (first != extents_.end() && first->first < range.start && first->second.unwritten()) {
    const Extent whole = extent_at(first);
    if (whole.end() > range.end()) return 2;
    const auto next = std::next(first);
    const Extent part = written(cut_to(whole, range));
    if (next == extents_.end() || !runs_on(part, extent_at(next))) ++slots;
  }
  const auto last = first_behind(range.end() - BlockCount(1));
  if (last == extents_.end() || last->first >= range.end() || last->first < range.start ||
      !last->second.unwritten() || extent_at(last).end() == range.end()) {
    return slots;
  }
  const Extent part = written(cut_to(extent_at(last), range));
  if (last == extents_.begin()) return slots + 1;
  // What lies before it in the range is written by then, and may have grown.
  const Extent before = extent_at(std::prev(last));
  const bool written_by_then = !before.unwritten || before.end() > range.start;
  const bool merges = written_by_then && runs_on(written(before), part) &&
                      before.count.value + range.count.value <= kMaxCount;
  return merges ? slots : slots + 1;
}

// Where the unwritten extent begins (ends) that contains `at`; `at` if there is none.
FileBlock ExtentMap::start_of_unwritten(FileBlock at) const {
  const auto it = first_behind(at);
  return it != extents_.end() && it->second.unwritten() ? std::min(at, it->first) : at;
}

FileBlock ExtentMap::end_of_unwritten(FileBlock at) const {
  const auto it = first_behind(at);
  const bool contains = it != extents_.end() && it->second.unwritten() && it->first <= at;
  return contains ? extent_at(it).end() : at;
}

FileRange ExtentMap::reserve_to_write(pmem::InodeRecord& record, FileRange range) {
  if (reserve(record, slots_to_write(range))) return range;
  // Towards the beginning first: a caller that goes on behind the range then finds a written
  // neighbour there, and needs no slot.
  const FileBlock start = start_of_unwritten(range.start);
  range = {start, range.end() - start};
  if (reserve(record, slots_to_write(range))) return range;
  // Nothing is cut any more.
  return {start, end_of_unwritten(range.end() - BlockCount(1)) - start};
}

void ExtentMap::release_chain(pmem::InodeRecord& record, std::vector<PoolRange>& released) {
  DAXFS_REQUIRE(extents_.empty(), "inode {}: its extent blocks go, and it has {} extents",
                inode_.value, extents_.size());
  for (const PoolBlock block : chain_) released.push_back({block, BlockCount(1)});
  record.extent_block = 0;
  chain_ = {};
  free_slots_ = {3, 2, 1, 0};
}

// --- changes ---

void ExtentMap::insert(Transaction& tx, const Extent& extent) {
  Extent grown = extent;
  std::optional<std::uint32_t> slot;
  auto next = extents_.lower_bound(extent.file);
  DAXFS_REQUIRE(extent.count.value > 0 && extent.count.value <= kMaxCount &&
                    (next == extents_.end() || next->first >= extent.end()) &&
                    (next == extents_.begin() || extent_at(std::prev(next)).end() <= extent.file),
                "inode {}: file blocks [{}, {}) are mapped, and are no hole", inode_.value,
                extent.file.value, extent.end().value);
  if (next != extents_.end() && runs_on(grown, extent_at(next))) {
    grown.count += BlockCount(next->second.count);
    slot = next->second.slot();
    next = extents_.erase(next);
  }
  mapped_ += extent.count;
  if (next != extents_.begin()) {
    const auto before = std::prev(next);
    if (runs_on(extent_at(before), grown)) {
      before->second.count += static_cast<std::uint32_t>(grown.count.value);
      stage(tx, before);
      if (slot) stage_empty(tx, *slot);
      return;
    }
  }
  if (!slot) slot = take_slot();
  stage(tx, extents_.emplace_hint(next, grown.file, make_node(grown, *slot)));
}

// Takes `part` out of the extent that contains it; what is behind `part` is returned.
//
//   |####part####|      its slot becomes free
//   |####part|####|     its slot holds the rest
//   |####|part####|     its slot holds the rest
//   |####|part|####|    its slot holds the head, a new one the tail
ExtentMap::Index::iterator ExtentMap::carve(Transaction& tx, Index::iterator it, FileRange part) {
  const Extent whole = extent_at(it);
  std::uint32_t slot = it->second.slot();
  const bool has_head = whole.file < part.start;
  const bool has_tail = part.end() < whole.end();
  DAXFS_REQUIRE(mapped_ >= part.count, "inode {}: {} blocks are unmapped, and {} are mapped",
                inode_.value, part.count.value, mapped_.value);
  mapped_ -= part.count;
  if (has_head) {
    it->second.count = static_cast<std::uint32_t>((part.start - whole.file).value);
    stage(tx, it);
    ++it;
    if (has_tail) slot = take_slot();
  } else {
    it = extents_.erase(it);
    if (!has_tail) stage_empty(tx, slot);
  }
  if (has_tail) {
    const Extent tail = cut_to(whole, {part.end(), whole.end() - part.end()});
    it = extents_.emplace_hint(it, tail.file, make_node(tail, slot));
    stage(tx, it);
  }
  return it;
}

FileBlock ExtentMap::remove(Transaction& tx, FileRange range, std::size_t limit,
                            std::vector<PoolRange>& removed) {
  for (auto it = first_behind(range.start); it != extents_.end() && it->first < range.end();) {
    if (limit == 0) return std::max(it->first, range.start);
    --limit;
    const Extent part = cut_to(extent_at(it), range);
    removed.push_back({part.pool, part.count});
    it = carve(tx, it, {part.file, part.count});
  }
  return range.end();
}

// Whether the unwritten extent would merge with a neighbour if it were written.
bool ExtentMap::would_merge_written(Index::iterator it) const {
  Extent extent = extent_at(it);
  extent.unwritten = false;
  if (it != extents_.begin() && runs_on(extent_at(std::prev(it)), extent)) return true;
  ++it;
  return it != extents_.end() && runs_on(extent, extent_at(it));
}

void ExtentMap::mark_written(Transaction& tx, FileRange range) {
  for (auto it = first_behind(range.start); it != extents_.end() && it->first < range.end();) {
    const Extent whole = extent_at(it);
    if (!whole.unwritten) {
      ++it;
      continue;
    }
    Extent part = cut_to(whole, range);
    part.unwritten = false;
    if (part.count == whole.count && !would_merge_written(it)) {
      it->second = make_node(part, it->second.slot());
      stage(tx, it);
      ++it;
      continue;
    }
    carve(tx, it, {part.file, part.count});
    insert(tx, part);
    it = first_behind(part.end());
  }
}

}  // namespace daxfs
