// What load() of an extent map makes of damaged and of forged media.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "tests/unit/extent_map_bench.h"

namespace daxfs::extent_map_test {
namespace {

struct DamageBench : Bench {
  DamageBench() {
    for (std::uint64_t i = 0; i < kInline + 2 * kSlots + 50; ++i) {
      add(extent(10 * i, 200 + 5 * i, 4, i % 2 == 0));
    }
    commit();
    REQUIRE(map.chain().size() == 3);
    REQUIRE(load().has_value());
  }

  PoolOffset slot_at(std::size_t id) const {
    if (id < kInline) {
      return kSlot + ByteCount(sizeof(pmem::InodeRecord) + id * sizeof(pmem::ExtentRecord));
    }
    return offset_of(map.chain()[(id - kInline) / kSlots]) +
           ByteCount(32 + (id - kInline) % kSlots * sizeof(pmem::ExtentRecord));
  }
  template <class T>
  void store(PoolOffset at, const T& object) {
    medium.store(at, std::as_bytes(std::span(&object, 1)));
  }
  // Forges a record that is sealed, so that its contents alone are wrong.
  void forge_slot(std::size_t id, const std::function<void(pmem::ExtentRecord&)>& change) {
    auto slot = medium.load<pmem::ExtentRecord>(slot_at(id));
    change(slot);
    seal(slot);
    store(slot_at(id), slot);
  }
  void forge_block(std::size_t index, const std::function<void(pmem::ExtentBlock&)>& change) {
    auto block = medium.load<pmem::ExtentBlock>(offset_of(map.chain()[index]));
    change(block);
    seal(block, 32);
    store(offset_of(map.chain()[index]), block);
  }
};

TEST_CASE("extent map: any flipped bit in a slot or chain header is noticed", "[extent_map]") {
  DamageBench b;
  std::vector<std::pair<PoolOffset, std::uint64_t>> targets;
  for (const std::size_t id : {0, 3, 4, 130, 131, 308, 384}) {  // the last two are free slots
    targets.emplace_back(b.slot_at(id), sizeof(pmem::ExtentRecord));
  }
  for (const PoolBlock block : b.map.chain()) targets.emplace_back(offset_of(block), 32);
  for (const auto& [start, length] : targets) {
    for (std::uint64_t bit = 0; bit < 8 * length; ++bit) {
      const PoolOffset at = start + ByteCount(bit / 8);
      const auto good = b.medium.load<std::uint8_t>(at);
      b.store(at, static_cast<std::uint8_t>(good ^ (1u << bit % 8)));
      REQUIRE(b.is_damaged());
      b.store(at, good);
    }
  }
  REQUIRE(b.load().has_value());
}

TEST_CASE("extent map: well-sealed nonsense in a slot is refused", "[extent_map]") {
  DamageBench b;
  const std::size_t id = GENERATE(1, 100);
  const std::uint64_t end = b.data_area.end().value;
  SECTION("untouched, for comparison") {
    b.forge_slot(id, [](auto&) {});
    REQUIRE(b.load().has_value());
  }
  SECTION("last blocks of the data area, for comparison") {
    b.forge_slot(id, [&](auto& r) { r.pool_block = end - r.count; });
    REQUIRE(b.load().has_value());
  }
  SECTION("another inode's") {
    b.forge_slot(id, [](auto& r) { r.inode_low ^= 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("empty") {
    b.forge_slot(id, [](auto& r) { r.count = 0; });
    REQUIRE(b.is_damaged());
  }
  SECTION("unknown flags") {
    b.forge_slot(id, [](auto& r) { r.flags |= 2; });
    REQUIRE(b.is_damaged());
  }
  SECTION("before the data area") {
    b.forge_slot(id, [&](auto& r) { r.pool_block = b.data_area.start.value - 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("no pool block") {
    b.forge_slot(id, [](auto& r) { r.pool_block = 0; });
    REQUIRE(b.is_damaged());
  }
  SECTION("across the end of the data area") {
    b.forge_slot(id, [&](auto& r) { r.pool_block = end - r.count + 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("pool block wraps") {
    b.forge_slot(id, [](auto& r) { r.pool_block = ~0ull - 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("file block wraps") {
    b.forge_slot(id, [](auto& r) { r.file_block = ~0ull - 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("past the largest file") {
    b.forge_slot(id, [](auto& r) { r.file_block = (1ull << 51) - r.count + 1; });
    REQUIRE(b.is_damaged());
  }
  SECTION("overlaps the next extent") {
    b.forge_slot(id, [](auto& r) { r.count = 11; });
    REQUIRE(b.is_damaged());
  }
  SECTION("twice the same place") {
    b.forge_slot(id, [](auto& r) { r.file_block += 10; });
    REQUIRE(b.is_damaged());
  }
}

TEST_CASE("extent map: well-sealed nonsense in the chain is refused", "[extent_map]") {
  DamageBench b;
  const auto& chain = b.map.chain();
  const std::uint64_t end = b.data_area.end().value;
  SECTION("a loop of one") {
    b.forge_block(0, [&](auto& block) { block.next = chain[0].value; });
    REQUIRE(b.is_damaged());
  }
  SECTION("a loop of one, at once") {
    b.forge_block(2, [&](auto& block) { block.next = chain[2].value; });
    REQUIRE(b.is_damaged());
  }
  SECTION("a loop of all") {
    b.forge_block(0, [&](auto& block) { block.next = chain[2].value; });
    REQUIRE(b.is_damaged());
  }
  SECTION("out of the pool") {
    for (const std::uint64_t bad : std::vector<std::uint64_t>{1, 31, end, ~0ull, ~0ull >> 12}) {
      b.forge_block(0, [&](auto& block) { block.next = bad; });
      REQUIRE(b.is_damaged());
      b.forge_block(0, [](auto& block) { block.next = 0; });
      REQUIRE(b.load().has_value());
      const std::uint64_t good = std::exchange(b.record.extent_block, bad);
      b.commit();
      REQUIRE(b.is_damaged());
      b.record.extent_block = good;
      b.commit();
      REQUIRE(b.load().has_value());
    }
  }
  SECTION("the head is no extent block") {
    b.record.extent_block = end - 1;
    b.commit();
    REQUIRE(b.is_damaged());
  }
  SECTION("another inode's block") {
    b.forge_block(1, [](auto& block) { block.inode ^= 1ull << 32; });
    REQUIRE(b.is_damaged());
  }
  SECTION("another kind of block") {
    b.forge_block(1, [](auto& block) { block.magic = 0; });
    REQUIRE(b.is_damaged());
  }
  SECTION("a long loop ends, too") {
    for (std::uint64_t i = 0; i < 3000; ++i) {
      b.add(extent(1'000'000 + 2 * i, 200, 1));
      if (i % 100 == 99) b.commit();
    }
    REQUIRE(chain.size() > 20);
    b.forge_block(5, [&](auto& block) { block.next = chain[18].value; });
    REQUIRE(b.is_damaged());
  }
}

}  // namespace
}  // namespace daxfs::extent_map_test
