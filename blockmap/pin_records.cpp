#include "blockmap/pin_records.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "blockmap/pin_record_scan.h"

namespace daxfs {
namespace {

using pmem::PinContinuation;
using pmem::PinHead;
using pmem::PinnedRun;
using pmem::PinSpillHeader;

constexpr std::uint32_t kFull = ~0u;
constexpr std::uint32_t kEmpty = 1;  // nothing but the header
static_assert(pmem::kPinSlotsPerBlock == 32);

// So many blocks of the region are initialised at a time.
constexpr std::uint64_t kRegionStep = 16;

PinnedRun to_run(PoolRange range) { return {range.start.value, range.count.value}; }

PinHead to_head(const PinRecord& pin) {
  PinHead head{};
  head.magic = PinHead::kMagic;
  head.flags = static_cast<std::uint16_t>((pin.write ? pmem::kPinWrite : 0) |
                                          (pin.doorbell ? pmem::kPinDoorbell : 0));
  head.pin_id = pin.pin_id;
  head.process = static_cast<std::uint32_t>(pin.owner.process);
  head.uid = pin.owner.uid;
  head.start_time = pin.owner.start_time;
  std::memcpy(head.boot.data(), pin.owner.boot.data(), head.boot.size());
  head.inode = pin.inode.value;
  head.generation = pin.generation;
  head.offset = pin.offset.value;
  head.length = pin.length.value;
  head.since_ns = pin.since_ns;
  head.pid_namespace = pin.owner.pid_namespace;
  return head;
}

}  // namespace

PinRecords::PinRecords(Medium& medium, Journal& journal, Allocator& allocator,
                       const pmem::Superblock& super, bool read_only)
    : medium_(medium),
      journal_(journal),
      allocator_(allocator),
      super_(super),
      read_only_(read_only) {}

PoolBlock PinRecords::region_block(std::uint64_t index) const {
  return PoolBlock(super_.pin_region_start + index);
}

// --- records ---

Result<PinSlot> PinRecords::add(const PinRecord& pin, std::span<const PoolRange> blocks,
                                PinRoom room) {
  if (read_only_) return fail(EROFS);
  Slots slots;
  std::uint64_t sequence = 0;
  {
    const MutexLock lock(mutex_);
    if (const auto taken = take_slots(pin_slots_for(blocks.size()), room, slots); !taken) {
      return std::unexpected(taken.error());
    }
    sequence = next_sequence_++;
  }
  write_records(pin, blocks, slots, sequence);
  medium_.fence();
  if (medium_.failed()) {
    const MutexLock lock(mutex_);
    give_slots(slots);
    return fail(EIO);
  }
  return slots.front();
}

// The records may reach the medium in any order and in part: until the fence the pin is not
// acknowledged, and a set that is not whole counts as absent.
void PinRecords::write_records(const PinRecord& pin, std::span<const PoolRange> blocks,
                               const Slots& slots, std::uint64_t sequence) {
  const auto next_of = [&](std::size_t i) {
    return i + 1 < slots.size() ? slots[i + 1].position : 0;
  };
  const auto write = [&](auto& record, std::size_t i) {
    record.sequence = sequence;
    record.next = next_of(i);
    record.crc = pin_crc(record, slots[i]);
    medium_.write(offset_of(slots[i]), std::as_bytes(std::span(&record, 1)));
  };
  auto rest = blocks.begin();
  PinHead head = to_head(pin);
  head.runs = static_cast<std::uint32_t>(blocks.size());
  if (rest != blocks.end()) head.first = to_run(*rest++);
  write(head, 0);
  for (std::size_t i = 1; i < slots.size(); ++i) {
    PinContinuation more{};
    more.magic = PinContinuation::kMagic;
    while (rest != blocks.end() && more.count < PinContinuation::kRuns) {
      more.runs[more.count++] = to_run(*rest++);
    }
    write(more, i);
  }
}

void PinRecords::remove_many(std::span<const PinSlot> slots) {
  // The next mount that may write looks at the owner again.
  if (slots.empty() || read_only_) return;
  Slots freed;
  for (const PinSlot slot : slots) {
    append_continuations(slot, freed);
    freed.push_back(slot);
    // Continuations without their head are free already.
    medium_.store_u64(offset_of(slot), 0);
  }
  medium_.fence();
  const MutexLock lock(mutex_);
  give_slots(freed);
}

// Holders can write to the pool: what does not fit stays taken until the next mount, no more.
void PinRecords::append_continuations(PinSlot slot, Slots& slots) const {
  const auto head = medium_.load<PinHead>(offset_of(slot));
  if (head.next == 0 || !is_pin_record(head, slot)) return;
  const std::size_t expected = pin_slots_for(head.runs) - 1;
  PinSlot next{head.next};
  for (std::size_t i = 0; i < expected; ++i) {
    {
      const MutexLock lock(mutex_);
      const auto block = by_place_.find(block_of(next).value);
      const bool taken = block != by_place_.end() && index_of(next) != 0 &&
                         (block->second->used >> index_of(next) & 1) != 0;
      if (!taken || i >= used_) return;
    }
    const auto more = medium_.load<PinContinuation>(offset_of(next));
    if (!is_pin_record(more, next) || more.sequence != head.sequence) return;
    slots.push_back(next);
    next = PinSlot{more.next};
  }
}

std::uint64_t PinRecords::slots_used() const {
  const MutexLock lock(mutex_);
  return used_;
}

BlockCount PinRecords::spill_blocks() const {
  const MutexLock lock(mutex_);
  return BlockCount(spilled_);
}

Outcome<void> PinRecords::verify(
    absl::FunctionRef<void(const std::vector<PoolRange>&)> visit) const {
  const MutexLock lock(mutex_);
  PinRecordScan scan(medium_, super_);
  if (auto read = scan.read_headers(); !read) return read;
  const auto same = [&](PoolBlock place) {
    mutex_.assert_held();
    return by_place_.contains(place.value);
  };
  if (scan.ready_blocks() != ready_ || scan.chain().size() != spilled_ ||
      !std::ranges::all_of(scan.chain(), same)) {
    return problem(EUCLEAN, "pin records: the chain is not what this mount has written there");
  }
  std::vector<PoolRange> used;
  for (const PoolBlock block : scan.chain()) used.push_back({block, BlockCount(1)});
  visit(used);
  return {};
}

// --- slots, in DRAM ---

PinRecords::Blocks& PinRecords::list_of(const Block& block) {
  if (block.used == kFull) return full_;
  return block.spilled ? open_spilled_ : open_region_;
}

void PinRecords::insert(const Block& block) {
  Blocks& list = list_of(block);
  by_place_[block.place.value] = list.insert(list.end(), block);
}

void PinRecords::forget(PoolBlock place) {
  const auto block = by_place_.find(place.value);
  list_of(*block->second).erase(block->second);
  by_place_.erase(block);
}

Status PinRecords::take_slots(std::size_t count, PinRoom room, Slots& slots) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto slot = take_slot(room);
    if (!slot) {
      give_slots(slots);
      release_reserve();
      return std::unexpected(slot.error());
    }
    slots.push_back(*slot);
  }
  return {};
}

Result<PinSlot> PinRecords::take_slot(PinRoom room) {
  if (open_region_.empty() && open_spilled_.empty()) {
    if (const auto grown = grow(room); !grown) return std::unexpected(grown.error());
  }
  Blocks& list = open_region_.empty() ? open_spilled_ : open_region_;
  const auto block = list.begin();
  if (block->spilled && block->used == kEmpty) reserve_ = false;
  const auto index = static_cast<std::uint64_t>(std::countr_one(block->used));
  block->used |= 1u << index;
  ++used_;
  if (block->used == kFull) full_.splice(full_.begin(), list, block);
  return slot_of(block->place, index);
}

void PinRecords::give_slots(const Slots& slots) {
  for (const PinSlot slot : slots) give_slot(slot);
  if (used_ == 0) release_reserve();
}

void PinRecords::give_slot(PinSlot slot) {
  const auto found = by_place_.find(block_of(slot).value);
  const std::uint32_t bit = 1u << index_of(slot);
  if (found == by_place_.end() || (found->second->used & bit) == 0) return;
  const Blocks::iterator block = found->second;
  const bool was_full = block->used == kFull;
  block->used &= ~bit;
  --used_;
  Blocks& list = list_of(*block);
  // The slot that was used last is the one that is still in the caches.
  if (was_full) list.splice(list.begin(), full_, block);
  if (!block->spilled || block->used != kEmpty) return;
  // One empty block is kept while there are pins: one that comes and goes at the border should not
  // grow and shrink the chain each time.
  if (reserve_) {
    release_spill_block(block);
  } else {
    reserve_ = true;
    list.splice(list.end(), list, block);
  }
}

// --- growing and shrinking ---

Status PinRecords::grow(PinRoom room) {
  if (ready_ == super_.pin_region_blocks) {
    if (room == PinRoom::share && spilled_ >= super_.total_blocks / kShare) return fail(ENOMEM);
    return add_spill_block();
  }
  return grow_region();
}

Status PinRecords::grow_region() {
  const std::uint64_t first = ready_;
  ready_ += std::min(kRegionStep, super_.pin_region_blocks - ready_);
  medium_.zero(offset_of(region_block(first)), bytes(BlockCount(ready_ - first)));
  medium_.fence();
  Transaction tx;
  stage_region_header(tx);
  const Status committed = journal_.commit(tx);
  for (std::uint64_t i = first; i < ready_; ++i) insert({.place = region_block(i)});
  return committed;
}

Status PinRecords::add_spill_block() {
  const auto run = allocator_.allocate_run(BlockCount(1));
  if (!run) return std::unexpected(run.error());
  const Block block{.place = run->start, .spilled = true, .next = chain_};
  PinSpillHeader header{};
  header.magic = PinSpillHeader::kMagic;
  header.next = chain_.value;
  header.crc = pin_crc(header, slot_of(block.place, 0));
  std::array<std::byte, kBlockSize> image{};
  std::memcpy(image.data(), &header, sizeof header);
  medium_.write(offset_of(block.place), image);
  medium_.fence();
  if (chain_.value != 0) by_place_.at(chain_.value)->previous = block.place;
  chain_ = block.place;
  ++spilled_;
  Transaction tx;
  stage_region_header(tx);
  const Status committed = journal_.commit(tx);
  insert(block);
  reserve_ = true;
  return committed;
}

void PinRecords::release_spill_block(Blocks::iterator block) {
  const Block gone = *block;
  if (gone.next.value != 0) by_place_.at(gone.next.value)->previous = gone.previous;
  Transaction tx;
  if (gone.previous.value != 0) {
    by_place_.at(gone.previous.value)->next = gone.next;
    stage_next(tx, gone.previous, gone.next);
  } else {
    chain_ = gone.next;
    stage_region_header(tx);
  }
  // Nobody is told. If it fails, the allocator keeps the block.
  static_cast<void>(journal_.commit(tx));
  forget(gone.place);
  --spilled_;
  // Nobody else could have made it free.
  static_cast<void>(allocator_.free({gone.place, BlockCount(1)}));
}

void PinRecords::release_reserve() {
  if (!reserve_) return;
  reserve_ = false;
  release_spill_block(std::prev(open_spilled_.end()));
}

void PinRecords::stage_next(Transaction& tx, PoolBlock block, PoolBlock next) const {
  PinSpillHeader header{};
  header.magic = PinSpillHeader::kMagic;
  header.next = next.value;
  header.crc = pin_crc(header, slot_of(block, 0));
  tx.write_object(offset_of(slot_of(block, 0)), header);
}

void PinRecords::stage_region_header(Transaction& tx) const {
  const PinSlot slot = slot_of(region_block(0), 0);
  pmem::PinRegionHeader header{};
  header.magic = pmem::PinRegionHeader::kMagic;
  header.ready_blocks = ready_;
  header.spill = chain_.value;
  header.crc = pin_crc(header, slot);
  tx.write_object(offset_of(slot), header);
}

}  // namespace daxfs
