// One inode with its extents on a medium of its own, for the tests of the extent map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "blockmap/extent_map.h"
#include "blockmap/medium/heap_medium.h"
#include "tests/unit/catch.h"

namespace daxfs::extent_map_test {

inline FileRange files(std::uint64_t start, std::uint64_t count) {
  return {FileBlock(start), BlockCount(count)};
}
inline Extent extent(std::uint64_t file, std::uint64_t pool, std::uint64_t count,
                     bool unwritten = false) {
  return {FileBlock(file), PoolBlock(pool), BlockCount(count), unwritten};
}

inline constexpr std::size_t kInline = pmem::kInlineExtents;
inline constexpr std::size_t kSlots = pmem::ExtentBlock::kSlots;

struct Bench {
  static constexpr InodeNumber kInode{0x1'0000'0011};
  static constexpr PoolOffset kSlot{16 * kBlockSize + 3 * pmem::kInodeBytes};

  explicit Bench(std::uint64_t data_blocks = 16'384)
      : medium(bytes(BlockCount(32 + data_blocks + 1))),
        journal(medium, formatted(medium)),
        data_area{PoolBlock(32), BlockCount(data_blocks)},
        map(medium, allocator, kInode, kSlot) {
    REQUIRE(allocator.free(data_area).has_value());
  }

  static Journal::Geometry formatted(Medium& medium) {
    const Journal::Geometry geometry{offset_of(PoolBlock(2)), 1, 48 << 10};
    Journal::format(medium, geometry);
    return geometry;
  }

  void commit() {
    seal(record, pmem::kInodeCrcBytes);
    tx.write_object(kSlot, record);
    static_cast<void>(journal.commit(tx));
    tx.clear();
  }
  void add(const Extent& e) {
    REQUIRE(map.reserve(record, 1).has_value());
    map.insert(tx, e);
  }
  Result<ExtentMap> load() { return ExtentMap::load(medium, allocator, kInode, kSlot, data_area); }
  bool is_damaged() {
    const auto loaded = load();
    return !loaded && loaded.error() == Errno{EUCLEAN};
  }
  // Bytes that so many slot updates take in a transaction.
  static std::size_t staged(std::size_t updates) {
    Transaction tx;
    for (std::size_t i = 0; i < updates; ++i) {
      tx.write_object(PoolOffset(1000 * i), pmem::ExtentRecord{});
    }
    return tx.size();
  }

  HeapMedium medium;
  Allocator allocator;
  Journal journal;
  PoolRange data_area;
  pmem::InodeRecord record{};
  Transaction tx;
  ExtentMap map;
};

inline std::vector<Extent> all(const ExtentMap& map) {
  std::vector<Extent> out;
  map.for_each(files(0, 1ull << 51), [&](const Extent& e) { out.push_back(e); });
  return out;
}

}  // namespace daxfs::extent_map_test
