// What a mount does with the pin records that it finds.
#include <bit>
#include <map>
#include <utility>

#include "blockmap/pin_record_scan.h"
#include "blockmap/pin_records.h"

namespace daxfs {

Outcome<std::vector<SurvivingPin>> PinRecords::open(const OwnerAlive& alive,
                                                    const PinLocked& locked,
                                                    std::vector<PoolRange>& used) {
  PinRecordScan scan(medium_, super_);
  if (auto read = scan.read_headers(); !read) return std::unexpected(std::move(read.error()));

  std::vector<SurvivingPin> survivors;
  absl::flat_hash_map<std::uint64_t, std::uint32_t> used_slots;  // by block
  std::map<PinOwner, bool> known;  // a million pins of one process are one question
  scan.for_each([&](RecordedPin&& found, std::span<const PinSlot> slots) {
    const auto [owner, fresh] = known.try_emplace(found.pin.owner, false);
    if (fresh) owner->second = alive && alive(found.pin.owner);
    if (!owner->second && !(locked && locked(found.pin.pin_id))) {
      ++found_.of_the_dead;
      return;
    }
    for (const PinSlot slot : slots) used_slots[block_of(slot).value] |= 1u << index_of(slot);
    survivors.push_back({std::move(found), {}, {}});
  });
  found_.survivors = survivors.size();
  found_.torn = scan.torn();

  const MutexLock lock(mutex_);
  next_sequence_ = scan.last_sequence() + 1;
  ready_ = scan.ready_blocks();
  const auto adopt = [&](Block block) {
    mutex_.assert_held();
    if (const auto slots = used_slots.find(block.place.value); slots != used_slots.end()) {
      block.used |= slots->second;
      used_ += static_cast<std::uint64_t>(std::popcount(slots->second));
    }
    insert(block);
  };
  for (std::uint64_t i = 0; i < ready_; ++i) adopt({.place = region_block(i)});
  const std::vector<PoolBlock>& chain = scan.chain();
  for (std::size_t i = 0; i < chain.size(); ++i) {
    adopt({.place = chain[i],
           .spilled = true,
           .previous = i == 0 ? PoolBlock(0) : chain[i - 1],
           .next = i + 1 == chain.size() ? PoolBlock(0) : chain[i + 1]});
    used.push_back({chain[i], BlockCount(1)});
  }
  if (!chain.empty()) chain_ = chain.front();
  spilled_ = chain.size();
  return survivors;
}

void PinRecords::settle() {
  if (read_only_) return;
  const MutexLock lock(mutex_);
  const std::uint64_t ready_before = ready_;
  while (ready_ > 1 && by_place_.at(region_block(ready_ - 1).value)->used == 1) {
    forget(region_block(--ready_));
  }
  std::vector<Block> kept;
  std::vector<PoolBlock> empty;
  for (PoolBlock at = chain_; at.value != 0;) {
    const Block block = *by_place_.at(at.value);
    if (block.used == 1) {
      empty.push_back(at);
      forget(at);
    } else {
      kept.push_back(block);
    }
    at = block.next;
  }

  // The heads of the dead go first: they may go on in blocks that are about to leave the chain.
  for (std::uint64_t i = 0; i < ready_; ++i)
    clear_unused_slots(*by_place_.at(region_block(i).value));
  for (const Block& block : kept) clear_unused_slots(block);
  medium_.fence();

  // Each link that is changed skips empty blocks, and is right by itself.
  Transaction tx;
  const auto commit = [&](std::size_t room) {
    if (tx.empty() || tx.size() + room <= journal_.capacity()) return;
    // Volume::open() asks in the end whether the medium has failed.
    static_cast<void>(journal_.commit(tx));
    tx.clear();
  };
  constexpr std::size_t kStagedHeader = 2 * pmem::kPinSlotBytes;  // with the journal's own header
  PoolBlock previous;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    Block& block = *by_place_.at(kept[i].place.value);
    block.previous = previous;
    previous = block.place;
    block.next = i + 1 == kept.size() ? PoolBlock(0) : kept[i + 1].place;
    if (block.next == kept[i].next) continue;
    commit(kStagedHeader);
    stage_next(tx, block.place, block.next);
  }
  const PoolBlock chain = kept.empty() ? PoolBlock(0) : kept.front().place;
  if (chain != chain_ || ready_ != ready_before) {
    chain_ = chain;
    commit(kStagedHeader);
    stage_region_header(tx);
  }
  commit(journal_.capacity());
  spilled_ = kept.size();
  for (const PoolBlock block : empty) {
    // They were marked as used, and by nobody else.
    static_cast<void>(allocator_.free({block, BlockCount(1)}));
  }
}

void PinRecords::clear_unused_slots(const Block& block) {
  for (std::uint64_t index = 1; index < pmem::kPinSlotsPerBlock; ++index) {
    const PoolOffset place = offset_of(slot_of(block.place, index));
    if ((block.used >> index & 1) == 0 && medium_.load<std::uint64_t>(place) != 0) {
      medium_.store_u64(place, 0);
    }
  }
}

}  // namespace daxfs
