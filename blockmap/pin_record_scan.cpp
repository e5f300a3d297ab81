#include "blockmap/pin_record_scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "blockmap/layout.h"

namespace daxfs {
namespace {

using pmem::kPinSlotsPerBlock;
using pmem::PinContinuation;
using pmem::PinHead;
using pmem::PinRegionHeader;
using pmem::PinSpillHeader;

constexpr std::uint64_t kMaxOffset = std::numeric_limits<std::int64_t>::max();

std::unexpected<Problem> damaged(PoolBlock block, const char* what) {
  return problem(EUCLEAN,
                 fmt::format("pin records, block {}: {}; run fsck.daxfs", block.value, what));
}

PinRecord to_pin(const PinHead& head) {
  PinRecord pin;
  pin.owner.process = static_cast<pid_t>(head.process);
  pin.owner.start_time = head.start_time;
  std::memcpy(pin.owner.boot.data(), head.boot.data(), head.boot.size());
  pin.owner.uid = head.uid;
  pin.owner.pid_namespace = head.pid_namespace;
  pin.inode = InodeNumber(head.inode);
  pin.generation = head.generation;
  pin.offset = FileOffset(head.offset);
  pin.length = ByteCount(head.length);
  pin.write = (head.flags & pmem::kPinWrite) != 0;
  pin.doorbell = (head.flags & pmem::kPinDoorbell) != 0;
  pin.since_ns = head.since_ns;
  pin.pin_id = head.pin_id;
  return pin;
}

PoolRange to_range(const pmem::PinnedRun& run) {
  return {PoolBlock(run.block), BlockCount(run.count)};
}

}  // namespace

void format_pin_region(Medium& medium, const pmem::Superblock& super) {
  const PoolBlock block(super.pin_region_start);
  PinRegionHeader header{};
  header.magic = PinRegionHeader::kMagic;
  header.ready_blocks = 1;
  header.crc = pin_crc(header, slot_of(block, 0));
  std::array<std::byte, kBlockSize> image{};
  std::memcpy(image.data(), &header, sizeof header);
  medium.write(offset_of(block), image);
}

Outcome<void> PinRecordScan::read_headers() {
  const PoolBlock first(super_.pin_region_start);
  const auto header = medium_.load<PinRegionHeader>(offset_of(first));
  if (!is_pin_record(header, slot_of(first, 0))) {
    return damaged(first, "the region's checksum does not match");
  }
  if (header.ready_blocks == 0 || header.ready_blocks > super_.pin_region_blocks) {
    return damaged(first, "the region says that more of it is initialised than there is");
  }
  ready_ = header.ready_blocks;
  for (std::uint64_t next = header.spill; next != 0;) {
    const PoolBlock block(next);
    if (!lies_within(data_area(super_), next, 1)) {
      return damaged(block, "lies outside the data area");
    }
    if (!chained_.insert(next).second) return damaged(block, "the chain is a loop");
    const auto spill = medium_.load<PinSpillHeader>(offset_of(block));
    if (!is_pin_record(spill, slot_of(block, 0))) return damaged(block, "checksum does not match");
    chain_.push_back(block);
    next = spill.next;
  }
  return {};
}

void PinRecordScan::for_each(Visitor visit) {
  for (std::uint64_t i = 0; i < ready_; ++i) {
    read_block(PoolBlock(super_.pin_region_start + i), visit);
  }
  for (const PoolBlock block : chain_) read_block(block, visit);
}

void PinRecordScan::read_block(PoolBlock block, Visitor visit) {
  for (std::uint64_t index = 1; index < kPinSlotsPerBlock; ++index) {
    const PinSlot slot = slot_of(block, index);
    if (medium_.load<std::uint64_t>(offset_of(slot)) == 0) continue;
    const auto head = medium_.load<PinHead>(offset_of(slot));
    if (is_pin_record(head, slot)) {
      last_sequence_ = std::max(last_sequence_, head.sequence);
      read_pin(slot, head, visit);
      continue;
    }
    const auto more = medium_.load<PinContinuation>(offset_of(slot));
    if (is_pin_record(more, slot)) {
      last_sequence_ = std::max(last_sequence_, more.sequence);
    } else {
      ++torn_;
    }
  }
}

void PinRecordScan::read_pin(PinSlot slot, const PinHead& head, Visitor visit) {
  const auto senseless = [&](const char* what) {
    senseless_.push_back(fmt::format("pin record at byte {} {}", offset_of(slot).value, what));
  };
  if (const char* what = nonsense(head)) return senseless(what);

  RecordedPin found{slot, to_pin(head), {}};
  std::vector<PinSlot> slots{slot};
  if (head.runs != 0) found.blocks.push_back(to_range(head.first));
  PinSlot next{head.next};
  for (std::size_t left = head.runs - found.blocks.size(); left > 0;) {
    const std::size_t expected = std::min(left, PinContinuation::kRuns);
    if (!may_hold(next)) return senseless("goes on outside the pin records");
    const auto more = medium_.load<PinContinuation>(offset_of(next));
    if (!is_pin_record(more, next) || more.sequence != head.sequence) {
      ++torn_;
      return;
    }
    if (more.count != expected) return senseless("goes on with another number of runs");
    if (!claimed_.insert(next.position).second) return senseless("goes on where another one does");
    for (std::size_t i = 0; i < expected; ++i) {
      if (!is_pinnable(more.runs[i])) return senseless("names blocks outside the data area");
      found.blocks.push_back(to_range(more.runs[i]));
    }
    slots.push_back(next);
    left -= expected;
    next = PinSlot{more.next};
  }
  if (next.position != 0) return senseless("goes on behind its end");
  visit(std::move(found), slots);
}

const char* PinRecordScan::nonsense(const PinHead& head) const {
  if ((head.process == 0 && head.start_time != 0) ||
      head.process > static_cast<std::uint32_t>(std::numeric_limits<pid_t>::max())) {
    return "names no process";
  }
  if (head.inode == 0) return "names no inode";
  if (head.offset > kMaxOffset || head.length > kMaxOffset) return "has an impossible range";
  if (const char* what = pmem::wrong_flags(head)) return what;
  if (head.runs != 0 && !is_pinnable(head.first)) return "names blocks outside the data area";
  return nullptr;
}

bool PinRecordScan::is_pinnable(const pmem::PinnedRun& run) const {
  return run.count != 0 && lies_within(data_area(super_), run.block, run.count);
}

bool PinRecordScan::may_hold(PinSlot slot) const {
  const std::uint64_t block = block_of(slot).value;
  if (index_of(slot) == 0) return false;
  return (block >= super_.pin_region_start && block - super_.pin_region_start < ready_) ||
         chained_.contains(block);
}

}  // namespace daxfs
