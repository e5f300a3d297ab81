// One run across borders of chunks, found among many fragments that are too short.
#include <algorithm>
#include <random>

#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

constexpr std::uint64_t kChunk = pmem::kHugeBlocks;

PoolRange range(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

// Every second block of so many chunks is free: 1, 3, 5, ...
constexpr std::uint64_t kChunks = 64;
void free_odd_blocks(Allocator& allocator) {
  std::vector<PoolRange> runs;
  for (std::uint64_t block = 1; block < kChunks * kChunk; block += 2) {
    runs.push_back(range(block, 1));
  }
  REQUIRE(allocator.rebuild(runs));
}

}  // namespace

TEST_CASE("allocator: a run across a border, and none", "[allocator]") {
  Allocator allocator;
  free_odd_blocks(allocator);
  const auto run_of = [&](std::uint64_t want) { return allocator.allocate_run(BlockCount(want)); };
  REQUIRE(run_of(2).error() == Errno{ENOSPC});
  REQUIRE(run_of(2).error() == Errno{ENOSPC});

  SECTION("one that comes to be while none was known") {
    // Not at a border: a fragment of three.
    REQUIRE(allocator.free(range(10 * kChunk + 8, 1)));
    REQUIRE(run_of(3).value() == range(10 * kChunk + 7, 3));
    REQUIRE(run_of(2).error() == Errno{ENOSPC});
    // The first block of a chunk joins the last one of the chunk before, and the second.
    REQUIRE(allocator.free(range(20 * kChunk, 1)));
    REQUIRE(run_of(4).error() == Errno{ENOSPC});
    REQUIRE(run_of(3).value() == range(20 * kChunk - 1, 3));
    REQUIRE(run_of(3).error() == Errno{ENOSPC});
    REQUIRE(run_of(2).error() == Errno{ENOSPC});
  }
  SECTION("before and behind the one that was found last") {
    for (const std::uint64_t chunk : {30u, 40u, 50u}) {
      REQUIRE(allocator.free(range(chunk * kChunk, 1)));
    }
    std::vector<std::uint64_t> found;
    for (int i = 0; i < 3; ++i) found.push_back(run_of(3).value().start.value);
    REQUIRE(allocator.free(range(30 * kChunk - 1, 3)));
    found.push_back(run_of(3).value().start.value);
    std::ranges::sort(found);
    REQUIRE(found ==
            std::vector{30 * kChunk - 1, 30 * kChunk - 1, 40 * kChunk - 1, 50 * kChunk - 1});
    REQUIRE(run_of(3).error() == Errno{ENOSPC});
  }
  SECTION("with chunks between its fragments, or at one of its ends") {
    for (std::uint64_t block = 5 * kChunk; block < 7 * kChunk; block += 2) {
      REQUIRE(allocator.free(range(block, 1)));
    }
    REQUIRE(allocator.shape().huge_chunks == 2);
    REQUIRE(run_of(2 * kChunk + 2).error() == Errno{ENOSPC});
    // A block before, none behind.
    REQUIRE(run_of(2 * kChunk + 1).value() == range(5 * kChunk - 1, 2 * kChunk + 1));
    REQUIRE(allocator.free(range(5 * kChunk - 1, 2 * kChunk + 1)));
    // One behind, too.
    REQUIRE(allocator.free(range(7 * kChunk, 1)));
    REQUIRE(run_of(2 * kChunk + 3).value() == range(5 * kChunk - 1, 2 * kChunk + 3));
    REQUIRE(run_of(2).error() == Errno{ENOSPC});
  }
  SECTION("a new free space is looked at anew") {
    REQUIRE(allocator.rebuild(std::vector{range(kChunk - 1, 2)}));
    REQUIRE(run_of(2).value() == range(kChunk - 1, 2));
    REQUIRE(allocator.free_blocks() == BlockCount(0));
  }
}

TEST_CASE("allocator: a run is found if there is one, in random free space", "[allocator]") {
  constexpr std::uint64_t kBlocks = 12 * kChunk;
  int across = 0;
  for (unsigned seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    Allocator allocator;
    std::vector<bool> is_free(kBlocks);
    // Mostly near borders, where it matters; now and then all of a chunk.
    const auto give = [&](std::uint64_t start, std::uint64_t count) {
      for (std::uint64_t block = std::max<std::uint64_t>(start, 1);
           block < std::min(start + count, kBlocks); ++block) {
        if (is_free[block]) continue;
        REQUIRE(allocator.free(range(block, 1)));
        is_free[block] = true;
      }
    };
    for (int step = 0; step < 600; ++step) {
      if (random() % 2 == 0) {
        const std::uint64_t border = random() % 12 * kChunk;
        const std::uint64_t before = std::min(border, random() % 4);
        give(border - before, before + random() % 4);
        if (random() % 300 == 0) give(border, kChunk);
        continue;
      }
      const std::uint64_t want = random() % 20 == 0 ? kChunk + random() % 8 : 1 + random() % 6;
      const std::vector<PoolRange> runs = allocator.snapshot();
      const bool possible =
          std::ranges::any_of(runs, [&](const PoolRange& run) { return run.count.value >= want; });
      const auto got = allocator.allocate_run(BlockCount(want));
      REQUIRE(got.has_value() == possible);
      if (!got) continue;
      REQUIRE(got->count.value == want);
      for (std::uint64_t i = 0; i < want; ++i) {
        REQUIRE(is_free[got->start.value + i]);
        is_free[got->start.value + i] = false;
      }
      if (got->start.value / kChunk != (got->end().value - 1) / kChunk) ++across;
    }
  }
  CHECK(across > 100);
}
