// Reading the pin records of a pool. Nothing on the medium is trusted.
#pragma once

#include <absl/container/flat_hash_set.h>
#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/medium/medium.h"
#include "blockmap/pin_records.h"

namespace daxfs {

// --- slots and their checksums ---

constexpr PoolOffset offset_of(PinSlot slot) {
  return PoolOffset(slot.position * pmem::kPinSlotBytes);
}
constexpr PinSlot slot_of(PoolBlock block, std::uint64_t index) {
  return {block.value * pmem::kPinSlotsPerBlock + index};
}
constexpr PoolBlock block_of(PinSlot slot) {
  return PoolBlock(slot.position / pmem::kPinSlotsPerBlock);
}
constexpr std::uint64_t index_of(PinSlot slot) { return slot.position % pmem::kPinSlotsPerBlock; }

template <class Record>
std::uint32_t pin_crc(Record record, PinSlot slot) {
  record.crc = 0;
  return sealed_crc(std::as_bytes(std::span(&record, 1)),
                    static_cast<std::uint32_t>(slot.position));
}
template <class Record>
bool is_pin_record(const Record& record, PinSlot slot) {
  return record.magic == Record::kMagic && record.crc == pin_crc(record, slot);
}

// How many slots a pin of so many runs takes.
constexpr std::size_t pin_slots_for(std::size_t runs) {
  constexpr std::size_t kRuns = pmem::PinContinuation::kRuns;
  return runs <= 1 ? 1 : 1 + (runs - 1 + kRuns - 1) / kRuns;
}

// --- the region ---

// An empty region (mkfs); durable after the caller's fence. Writes one block: the others are
// initialised when they are first needed.
void format_pin_region(Medium& medium, const pmem::Superblock& super);

// Not thread-safe. Only reads.
class PinRecordScan {
 public:
  PinRecordScan(const Medium& medium, const pmem::Superblock& super)
      : medium_(medium), super_(super) {}

  // The headers, first of all. EUCLEAN with text.
  Outcome<void> read_headers();
  // Initialised blocks of the region, and the chain in the data area in its order.
  std::uint64_t ready_blocks() const { return ready_; }
  const std::vector<PoolBlock>& chain() const { return chain_; }

  // Each whole record, and the slots that it takes.
  using Visitor = absl::FunctionRef<void(RecordedPin&& pin, std::span<const PinSlot> slots)>;
  void for_each(Visitor visit);

  // What for_each() met besides.
  std::uint64_t torn() const { return torn_; }  // slots
  const std::vector<std::string>& senseless() const { return senseless_; }
  std::uint64_t last_sequence() const { return last_sequence_; }

 private:
  void read_block(PoolBlock block, Visitor visit);
  void read_pin(PinSlot slot, const pmem::PinHead& head, Visitor visit);
  const char* nonsense(const pmem::PinHead& head) const;
  bool is_pinnable(const pmem::PinnedRun& run) const;
  bool may_hold(PinSlot slot) const;

  const Medium& medium_;
  const pmem::Superblock& super_;
  std::uint64_t ready_ = 0;
  std::vector<PoolBlock> chain_;
  absl::flat_hash_set<std::uint64_t> chained_;  // the same blocks
  absl::flat_hash_set<std::uint64_t> claimed_;  // continuations that belong to a record
  std::uint64_t torn_ = 0;
  std::uint64_t last_sequence_ = 0;
  std::vector<std::string> senseless_;
};

}  // namespace daxfs
