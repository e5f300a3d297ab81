// What a watch over the allocator says, against one flag for each block.
#include <algorithm>
#include <random>
#include <vector>

#include "blockmap/allocator.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

constexpr std::uint64_t kBlocks = 4096;

PoolRange range(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

std::vector<bool> flags(const std::vector<PoolRange>& runs) {
  std::vector<bool> out(kBlocks, false);
  for (const PoolRange& run : runs) {
    std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(run.start.value), run.count.value, true);
  }
  return out;
}

}  // namespace

TEST_CASE("a watch knows which blocks have been in use all the time") {
  std::mt19937_64 random(7);
  const auto below = [&](std::uint64_t n) { return random() % n; };
  Allocator allocator;
  REQUIRE(allocator.free(range(0, kBlocks)));
  std::vector<PoolRange> used;
  const auto step = [&] {
    if (used.empty() || below(2) == 0) {
      std::vector<PoolRange> got;
      if (allocator.allocate(BlockCount(1 + below(below(4) == 0 ? 700 : 9)), PoolBlock(0), got)) {
        used.insert(used.end(), got.begin(), got.end());
      }
    } else {
      std::swap(used[below(used.size())], used.back());
      REQUIRE(allocator.free(used.back()));
      used.pop_back();
    }
  };
  for (int round = 0; round < 30; ++round) {
    for (int i = 0; i < 100; ++i) step();
    BlockBitmap moved{BlockCount(kBlocks)};
    BlockBitmap second{BlockCount(kBlocks)};
    REQUIRE(allocator.watch(&moved));
    REQUIRE_FALSE(allocator.watch(&second));
    std::vector<bool> still = flags(used);
    for (int i = 0; i < 20; ++i) {
      step();
      const std::vector<bool> now = flags(used);
      for (std::size_t b = 0; b < kBlocks; ++b) still[b] = still[b] && now[b];
    }
    // What was given back and handed out again has moved, too; it may be missing, but nothing more.
    const std::uint64_t first = below(kBlocks);
    const PoolRange area = range(first, 1 + below(kBlocks - first));
    const std::vector<bool> said = flags(allocator.in_use_since_watch(area));
    const std::vector<bool> now = flags(used);
    for (std::uint64_t b = 0; b < kBlocks; ++b) {
      const bool within = b >= area.start.value && b < area.end().value;
      const bool has_moved = moved.find(b, b + 1, true) == b;
      INFO("block " << b);
      REQUIRE(said[b] == (within && now[b] && !has_moved));
      if (said[b]) REQUIRE(still[b]);
      if (still[b] && within && !has_moved) REQUIRE(said[b]);
    }
    REQUIRE(allocator.watch(nullptr));
    step();
    REQUIRE(allocator.watch(&second));
    REQUIRE(allocator.watch(nullptr));
  }
}

TEST_CASE("what is free of some runs is found, wherever it lies in them") {
  Allocator allocator;
  for (const PoolRange free : {range(10, 5), range(512, 1024), range(2000, 1)}) {
    REQUIRE(allocator.free(free));
  }
  const auto find = [&](std::vector<PoolRange> runs) { return allocator.find_free(runs); };
  CHECK_FALSE(find({}));
  CHECK_FALSE(find({range(0, 10), range(15, 497), range(1536, 464), range(2001, 100)}));
  CHECK(find({range(0, 11)}) == range(10, 1));
  CHECK(find({range(0, 100)}) == range(10, 5));
  CHECK(find({range(20, 10), range(500, 20)}) == range(512, 8));
  CHECK(find({range(1000, 5000)}) == range(1000, 536));
  CHECK(find({range(1600, 1000)}) == range(2000, 1));
}

TEST_CASE("allocator: how much of an area is free") {
  Allocator allocator;
  REQUIRE(allocator.free({PoolBlock(100), BlockCount(3000)}));
  REQUIRE(allocator.free({PoolBlock(4000), BlockCount(10)}));
  const auto free_in = [&](std::uint64_t start, std::uint64_t count) {
    return allocator.free_in({PoolBlock(start), BlockCount(count)}).value;
  };
  CHECK(free_in(0, 5000) == 3010);
  CHECK(free_in(0, 100) == 0);
  CHECK(free_in(99, 2) == 1);
  CHECK(free_in(500, 1000) == 1000);
  CHECK(free_in(3099, 1000) == 11);
  CHECK(free_in(5000, 0) == 0);
}
