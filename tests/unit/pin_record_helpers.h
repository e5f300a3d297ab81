// Pins and owners made by hand, for tests of pin records.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "blockmap/pin_record_scan.h"
#include "tests/unit/test_volume.h"

namespace daxfs::test {

inline PinOwner owner_of(pid_t process) {
  PinOwner owner{process, 1000 + static_cast<std::uint64_t>(process), {}, 77};
  owner.boot.fill(std::byte{0x5a});
  owner.pid_namespace = 0xF0000000u + static_cast<std::uint32_t>(process % 3);  // some container's
  return owner;
}

inline PinRecord pin_of(std::uint64_t id, pid_t process = 42) {
  PinRecord pin;
  pin.owner = owner_of(process);
  pin.inode = InodeNumber(id + 1);
  pin.generation = static_cast<std::uint32_t>(id * 3);
  pin.offset = FileOffset(id * 5000);
  pin.length = ByteCount(id * 7 + 1);
  pin.write = id % 2 == 1;
  pin.since_ns = static_cast<std::int64_t>(id) - 3;
  pin.pin_id = id;
  return pin;
}

// So many runs, none touching another.
inline std::vector<PoolRange> runs_of(const Volume& volume, std::size_t count,
                                      std::uint64_t first = 0) {
  std::vector<PoolRange> runs;
  for (std::size_t i = 0; i < count; ++i) {
    runs.push_back({volume.data_area().start + BlockCount(first + 3 * i), BlockCount(1 + i % 2)});
  }
  return runs;
}

inline bool everybody(const PinOwner&) { return true; }
inline bool nobody(const PinOwner&) { return false; }

inline std::unique_ptr<Volume> open_with(Medium& medium, const OwnerAlive& alive,
                                         bool read_only = false) {
  auto volume = Volume::open(medium, "test.pool", read_only, 1, alive);
  INFO((volume ? std::string() : volume.error().text));
  REQUIRE(volume);
  return std::move(*volume);
}

inline std::uint64_t free_blocks(Volume& volume) { return volume.allocator().free_blocks().value; }

inline std::uint64_t blocks_in(const std::vector<PoolRange>& ranges) {
  std::uint64_t count = 0;
  for (const PoolRange& range : ranges) count += range.count.value;
  return count;
}

// Whether no block of `ranges` is free.
inline bool none_is_free(Volume& volume, const std::vector<PoolRange>& ranges) {
  const auto free = volume.allocator().snapshot();
  return std::ranges::none_of(ranges, [&](PoolRange range) {
    return std::ranges::any_of(
        free, [&](PoolRange run) { return run.start < range.end() && range.start < run.end(); });
  });
}

// Seals what was changed by hand, as a hostile pool would have it.
template <class Record>
void put_pin_record(Medium& medium, PinSlot slot, Record record) {
  record.crc = pin_crc(record, slot);
  medium.store(offset_of(slot), std::as_bytes(std::span(&record, 1)));
}

}  // namespace daxfs::test
