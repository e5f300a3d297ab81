// The allocator against a reference that has one flag per block.
#include "blockmap/allocator.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "blockmap/format.h"
#include "tests/unit/catch.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kChunk = pmem::kHugeBlocks;

PoolRange range(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

std::uint64_t total(const std::vector<PoolRange>& runs) {
  std::uint64_t sum = 0;
  for (const PoolRange& run : runs) sum += run.count.value;
  return sum;
}

// One flag per block, true = free.
class Reference {
 public:
  explicit Reference(std::size_t blocks) : free_(blocks, false) {}

  bool all(PoolRange r, bool value) const {
    for (PoolBlock b = r.start; b < r.end(); b += BlockCount(1)) {
      if (free_.at(b.value) != value) return false;
    }
    return true;
  }
  void set(PoolRange r, bool value) {
    for (PoolBlock b = r.start; b < r.end(); b += BlockCount(1)) free_.at(b.value) = value;
  }
  bool is_free(std::uint64_t block) const { return block < free_.size() && free_[block]; }
  std::uint64_t count() const {
    return static_cast<std::uint64_t>(std::ranges::count(free_, true));
  }
  std::uint64_t free_run_at(std::uint64_t block, std::uint64_t limit) const {
    std::uint64_t n = 0;
    while (n < limit && is_free(block + n)) ++n;
    return n;
  }
  std::vector<PoolRange> runs() const {
    std::vector<PoolRange> out;
    for (std::uint64_t b = 0; b < free_.size();) {
      const std::uint64_t n = free_run_at(b, free_.size());
      if (n != 0) out.push_back(range(b, n));
      b += n + 1;
    }
    return out;
  }
  Allocator::Shape shape() const {
    Allocator::Shape shape{0, 0};
    for (std::uint64_t chunk = 0; chunk * kChunk < free_.size(); ++chunk) {
      if (free_run_at(chunk * kChunk, kChunk) == kChunk) {
        ++shape.huge_chunks;
        continue;
      }
      bool before = false;
      for (std::uint64_t b = chunk * kChunk; b < (chunk + 1) * kChunk; ++b) {
        if (is_free(b) && !before) ++shape.fragments;
        before = is_free(b);
      }
    }
    return shape;
  }

 private:
  std::vector<bool> free_;
};

void require_same(const Allocator& allocator, const Reference& reference) {
  REQUIRE(allocator.free_blocks().value == reference.count());
  REQUIRE(allocator.snapshot() == reference.runs());
  REQUIRE(allocator.shape().fragments == reference.shape().fragments);
  REQUIRE(allocator.shape().huge_chunks == reference.shape().huge_chunks);
}

TEST_CASE("allocator: an empty one has nothing to give", "[allocator]") {
  Allocator allocator;
  std::vector<PoolRange> out;
  REQUIRE(allocator.allocate(BlockCount(1), PoolBlock(0), out) == fail(ENOSPC));
  REQUIRE(allocator.allocate_run(BlockCount(1)).error() == Errno{ENOSPC});
  REQUIRE(allocator.allocate(BlockCount(0), PoolBlock(0), out).has_value());
  REQUIRE(out.empty());
  REQUIRE(allocator.snapshot().empty());
}

TEST_CASE("allocator: freeing what is free is refused and changes nothing", "[allocator]") {
  Allocator allocator;
  REQUIRE(allocator.free(range(100, 2000)).has_value());
  const auto before = allocator.snapshot();
  const std::array<PoolRange, 8> bad = {range(100, 1),    range(2099, 1),     range(99, 2),
                                        range(2099, 10),  range(600, 10),     range(50, 3000),
                                        range(1024, 512), range(~0ull - 1, 5)};
  for (const PoolRange& r : bad) {
    REQUIRE(allocator.free(r) == fail(EUCLEAN));
    REQUIRE(allocator.snapshot() == before);
  }
  REQUIRE(allocator.free(range(200, 0)).has_value());
  REQUIRE(allocator.free(range(99, 1)).has_value());
  REQUIRE(allocator.free(range(2100, 1)).has_value());
  REQUIRE(allocator.snapshot() == std::vector{range(99, 2002)});
}

TEST_CASE("allocator: chunks that become whole are huge again", "[allocator]") {
  Allocator allocator;
  REQUIRE(allocator.free(range(kChunk, 4 * kChunk)).has_value());
  REQUIRE(allocator.shape().huge_chunks == 4);

  std::vector<PoolRange> out;
  REQUIRE(allocator.allocate(BlockCount(1), PoolBlock(2 * kChunk + 7), out).has_value());
  REQUIRE(out == std::vector{range(2 * kChunk + 7, 1)});
  REQUIRE(allocator.shape().huge_chunks == 3);
  REQUIRE(allocator.shape().fragments == 2);

  REQUIRE(allocator.free(out[0]).has_value());
  REQUIRE(allocator.shape().huge_chunks == 4);
  REQUIRE(allocator.shape().fragments == 0);
}

TEST_CASE("allocator: large requests get aligned chunks, best fit", "[allocator]") {
  Allocator allocator;
  // Runs of 1, 3 and 2 chunks and a fragment of 100 blocks.
  REQUIRE(allocator.free(range(2 * kChunk, kChunk)).has_value());
  REQUIRE(allocator.free(range(4 * kChunk, 3 * kChunk)).has_value());
  REQUIRE(allocator.free(range(8 * kChunk, 2 * kChunk)).has_value());
  REQUIRE(allocator.free(range(20 * kChunk + 5, 100)).has_value());

  std::vector<PoolRange> out;
  SECTION("the run that fits, then the tail from a fragment") {
    REQUIRE(allocator.allocate(BlockCount(2 * kChunk + 50), PoolBlock(0), out).has_value());
    REQUIRE(out == std::vector{range(8 * kChunk, 2 * kChunk), range(20 * kChunk + 5, 50)});
  }
  SECTION("a tail that no fragment holds follows where the chunks end") {
    REQUIRE(allocator.allocate(BlockCount(2 * kChunk), PoolBlock(0), out).has_value());
    REQUIRE(out == std::vector{range(8 * kChunk, 2 * kChunk)});
    out.clear();
    REQUIRE(allocator.allocate(BlockCount(2 * kChunk + 101), PoolBlock(0), out).has_value());
    REQUIRE(out == std::vector{range(4 * kChunk, 2 * kChunk + 101)});
  }
  SECTION("no run is long enough: the longest first") {
    REQUIRE(allocator.allocate(BlockCount(5 * kChunk), PoolBlock(0), out).has_value());
    REQUIRE(out == std::vector{range(4 * kChunk, 3 * kChunk), range(8 * kChunk, 2 * kChunk)});
  }
  SECTION("a few odd blocks at the goal do not cost an aligned chunk") {
    REQUIRE(allocator.allocate(BlockCount(kChunk), PoolBlock(20 * kChunk + 100), out).has_value());
    REQUIRE(out == std::vector{range(2 * kChunk, kChunk)});
  }
  SECTION("breaking a chunk takes it from the shortest run") {
    REQUIRE(allocator.allocate(BlockCount(200), PoolBlock(0), out).has_value());
    REQUIRE(out == std::vector{range(2 * kChunk, 200)});
  }
}

TEST_CASE("allocator: a growing file stays in one piece", "[allocator]") {
  Allocator allocator;
  REQUIRE(allocator.free(range(kChunk, 16 * kChunk)).has_value());
  std::vector<PoolRange> out;
  REQUIRE(allocator.allocate(BlockCount(3), PoolBlock(0), out).has_value());
  const PoolBlock start = out[0].start;
  PoolBlock goal = out[0].end();
  for (int i = 0; i < 500; ++i) {
    out.clear();
    REQUIRE(allocator.allocate(BlockCount(7), goal, out).has_value());
    REQUIRE(out == std::vector{range(goal.value, 7)});
    goal = out[0].end();
  }
  REQUIRE(goal - start == BlockCount(3 + 500 * 7));

  SECTION("a large request continues an unaligned file, too") {
    out.clear();
    REQUIRE(allocator.allocate(BlockCount(3 * kChunk), goal, out).has_value());
    REQUIRE(out == std::vector{range(goal.value, 3 * kChunk)});
  }
  SECTION("a goal that is in use is no goal") {
    out.clear();
    REQUIRE(allocator.allocate(BlockCount(5), start, out).has_value());
    REQUIRE(total(out) == 5);
    REQUIRE(out[0].start >= goal);
  }
}

TEST_CASE("allocator: all or nothing", "[allocator]") {
  Allocator allocator;
  for (std::uint64_t i = 0; i < 100; ++i) {
    REQUIRE(allocator.free(range(1000 + 10 * i, 3)).has_value());
  }
  const auto before = allocator.snapshot();
  std::vector<PoolRange> out = {range(1, 1)};
  REQUIRE(allocator.allocate(BlockCount(301), PoolBlock(1000), out) == fail(ENOSPC));
  REQUIRE(out == std::vector{range(1, 1)});
  REQUIRE(allocator.snapshot() == before);
  REQUIRE(allocator.allocate(BlockCount(300), PoolBlock(1000), out).has_value());
  REQUIRE(out.size() == 101);
  REQUIRE(out[0] == range(1, 1));
  REQUIRE(total(out) == 301);
  REQUIRE(allocator.free_blocks().value == 0);
}

TEST_CASE("allocator: out's earlier runs are left alone even where a new one touches them",
          "[allocator]") {
  Allocator allocator;
  REQUIRE(allocator.free(range(10, 10)).has_value());
  std::vector<PoolRange> out = {range(5, 5)};
  REQUIRE(allocator.allocate(BlockCount(2), PoolBlock(10), out).has_value());
  REQUIRE(out == std::vector{range(5, 5), range(10, 2)});
}

TEST_CASE("allocator: one contiguous run", "[allocator]") {
  Allocator allocator;
  SECTION("across a chunk border when nothing else is long enough") {
    REQUIRE(allocator.free(range(2 * kChunk - 300, 600)).has_value());
    REQUIRE(allocator.allocate_run(BlockCount(601)).error() == Errno{ENOSPC});
    REQUIRE(allocator.allocate_run(BlockCount(550)).value() == range(2 * kChunk - 300, 550));
    REQUIRE(allocator.snapshot() == std::vector{range(2 * kChunk + 250, 50)});
  }
  SECTION("never in pieces") {
    for (std::uint64_t i = 0; i < 100; ++i) {
      REQUIRE(allocator.free(range(1000 + 10 * i, 3)).has_value());
    }
    REQUIRE(allocator.allocate_run(BlockCount(4)).error() == Errno{ENOSPC});
    REQUIRE(allocator.free_blocks().value == 300);
    REQUIRE(allocator.allocate_run(BlockCount(3)).value() == range(1000, 3));
  }
  SECTION("from whole chunks") {
    REQUIRE(allocator.free(range(kChunk, 3 * kChunk)).has_value());
    REQUIRE(allocator.allocate_run(BlockCount(2 * kChunk + 1)).value() ==
            range(kChunk, 2 * kChunk + 1));
    REQUIRE(allocator.allocate_run(BlockCount(kChunk)).error() == Errno{ENOSPC});
  }
}

TEST_CASE("allocator: small files break no more chunks than they fill", "[allocator]") {
  constexpr std::uint64_t kChunks = 256;
  Allocator allocator;
  REQUIRE(allocator.free(range(kChunk, kChunks * kChunk)).has_value());
  std::mt19937_64 random(7);
  std::vector<PoolRange> files;
  std::uint64_t blocks = 0;
  for (int i = 0; i < 10'000; ++i) {
    const BlockCount want(1 + random() % 4);
    REQUIRE(allocator.allocate(want, PoolBlock(0), files).has_value());
    blocks += want.value;
  }
  REQUIRE(files.size() == 10'000);  // each in one piece
  REQUIRE(allocator.shape().huge_chunks >= kChunks - (blocks + kChunk - 1) / kChunk - 1);

  SECTION("and when half of them go, new ones take their places") {
    const std::uint64_t huge = allocator.shape().huge_chunks;
    std::vector<std::uint64_t> sizes;
    for (std::size_t i = 0; i < files.size(); i += 2) {
      REQUIRE(allocator.free(files[i]).has_value());
      sizes.push_back(files[i].count.value);
    }
    std::ranges::shuffle(sizes, random);
    for (const std::uint64_t size : sizes) {
      std::vector<PoolRange> out;
      REQUIRE(allocator.allocate(BlockCount(size), PoolBlock(0), out).has_value());
    }
    REQUIRE(allocator.shape().huge_chunks >= huge - 1);
  }
}

TEST_CASE("allocator: no run is longer than an extent can be", "[allocator]") {
  Allocator allocator;
  const std::uint64_t pool = 5ull << 31;
  REQUIRE(allocator.free(range(0, pool)).has_value());
  std::vector<PoolRange> out;
  REQUIRE(allocator.allocate(BlockCount(pool - 3), PoolBlock(3), out).has_value());
  REQUIRE(total(out) == pool - 3);
  for (const PoolRange& run : out) REQUIRE(run.count <= Allocator::kMaxRun);
  REQUIRE(allocator.snapshot() == std::vector{range(0, 3)});
}

TEST_CASE("allocator: rebuild loads what free() would", "[allocator]") {
  std::mt19937_64 random(11);
  Allocator slow;
  Allocator fast;
  std::vector<PoolRange> runs;
  std::uint64_t at = 3;
  for (int i = 0; i < 3000; ++i) {
    const std::uint64_t count = random() % 10 == 0 ? random() % 3000 : random() % 20;
    runs.push_back(range(at, count));
    at += count + (random() % 4 == 0 ? 0 : random() % 300);
    REQUIRE(slow.free(runs.back()).has_value());
  }
  std::vector<PoolRange> out;
  REQUIRE(fast.free(range(1, 5000)).has_value());  // is forgotten
  REQUIRE(fast.rebuild(runs).has_value());
  REQUIRE(fast.snapshot() == slow.snapshot());
  REQUIRE(fast.free_blocks() == slow.free_blocks());
  REQUIRE(fast.shape().fragments == slow.shape().fragments);
  REQUIRE(fast.shape().huge_chunks == slow.shape().huge_chunks);
  // Both indexes hold the same: equal requests get equal answers.
  for (int i = 0; i < 2000; ++i) {
    const BlockCount want(1 + random() % 700);
    std::vector<PoolRange> a;
    std::vector<PoolRange> b;
    REQUIRE(fast.allocate(want, PoolBlock(0), a) == slow.allocate(want, PoolBlock(0), b));
    REQUIRE(a == b);
  }

  const auto before = fast.snapshot();
  REQUIRE(fast.rebuild(std::vector{range(10, 5), range(14, 1)}) == fail(EUCLEAN));
  REQUIRE(fast.rebuild(std::vector{range(10, 5), range(2, 1)}) == fail(EUCLEAN));
  REQUIRE(fast.rebuild(std::vector{range(10, ~0ull)}) == fail(EUCLEAN));
  REQUIRE(fast.snapshot() == before);
}

// What allocate() gave must have been free, add up, start at a free goal, and hold aligned chunks.
void check_grant(const Reference& before, std::uint64_t want, std::uint64_t goal,
                 const std::vector<PoolRange>& got) {
  Reference left = before;
  for (const PoolRange& run : got) {
    REQUIRE(!run.empty());
    REQUIRE(left.all(run, true));
    left.set(run, false);
  }
  REQUIRE(total(got) == want);

  if (goal != 0 && want < kChunk && before.is_free(goal)) {
    REQUIRE(got[0].start.value == goal);
    REQUIRE(got[0].count.value >= before.free_run_at(goal, want));
  }
  if (goal == 0 && want >= kChunk) {
    std::uint64_t aligned = 0;
    for (const PoolRange& run : got) {
      const std::uint64_t first = (run.start.value + kChunk - 1) / kChunk;
      const std::uint64_t last = run.end().value / kChunk;
      aligned += last > first ? last - first : 0;
    }
    REQUIRE(aligned >= std::min(want / kChunk, before.shape().huge_chunks));
  }
  if (goal == 0 && want < kChunk && before.shape().huge_chunks != 0) REQUIRE(got.size() == 1);
}

TEST_CASE("allocator: random use agrees with the reference", "[allocator]") {
  constexpr std::uint64_t kBlocks = 40 * kChunk;
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
    std::mt19937_64 random(seed);
    Allocator allocator;
    Reference reference(kBlocks);
    const PoolRange area = range(77, kBlocks - 100);
    REQUIRE(allocator.free(area).has_value());
    reference.set(area, true);

    std::vector<PoolRange> held;
    for (int step = 0; step < 1500; ++step) {
      if (random() % 5 < 3) {
        const std::uint64_t want =
            random() % 6 == 0 ? random() % (6 * kChunk) : 1 + random() % (random() % 2 ? 8 : 500);
        std::uint64_t goal = 0;
        if (!held.empty() && random() % 2 == 0) goal = held[random() % held.size()].end().value;
        std::vector<PoolRange> got;
        const Status status = allocator.allocate(BlockCount(want), PoolBlock(goal), got);
        REQUIRE(status.has_value() == (want <= reference.count()));
        if (!status) {
          REQUIRE(status == fail(ENOSPC));
          REQUIRE(got.empty());
        } else if (want != 0) {
          check_grant(reference, want, goal, got);
        }
        for (const PoolRange& run : got) {
          reference.set(run, false);
          held.push_back(run);
        }
      } else if (random() % 8 == 0) {
        const std::uint64_t want = 1 + random() % 1200;
        const auto got = allocator.allocate_run(BlockCount(want));
        const bool possible = std::ranges::any_of(
            reference.runs(), [&](const PoolRange& run) { return run.count.value >= want; });
        REQUIRE(got.has_value() == possible);
        if (got) {
          REQUIRE(got->count.value == want);
          REQUIRE(reference.all(*got, true));
          reference.set(*got, false);
          held.push_back(*got);
        }
      } else if (!held.empty()) {
        // All of a held run or a part of it.
        const std::size_t i = random() % held.size();
        const PoolRange whole = held[i];
        const std::uint64_t from = random() % 2 == 0 ? 0 : random() % whole.count.value;
        const std::uint64_t count = random() % 2 == 0 ? whole.count.value - from
                                                      : 1 + random() % (whole.count.value - from);
        const PoolRange part = range(whole.start.value + from, count);
        held[i] = held.back();
        held.pop_back();
        if (from != 0) held.push_back(range(whole.start.value, from));
        if (part.end() < whole.end()) held.push_back({part.end(), whole.end() - part.end()});
        REQUIRE(allocator.free(part).has_value());
        REQUIRE(allocator.free(part) == fail(EUCLEAN));
        reference.set(part, true);
      }
      if (step % 10 == 0) require_same(allocator, reference);
    }
    for (const PoolRange& run : held) {
      REQUIRE(allocator.free(run).has_value());
      reference.set(run, true);
    }
    require_same(allocator, reference);
    REQUIRE(allocator.snapshot() == std::vector{area});
  }
}

TEST_CASE("allocator: threads never get the same block", "[allocator]") {
  Allocator allocator;
  const PoolRange area = range(100, 20 * kChunk);
  REQUIRE(allocator.free(area).has_value());
  std::array<std::vector<PoolRange>, 4> held;
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < held.size(); ++t) {
      threads.emplace_back([&allocator, &mine = held[t], t] {
        std::mt19937_64 random(t);
        for (int i = 0; i < 2000; ++i) {
          // What does not fit is simply not taken; a failed free() shows in the count below.
          if (random() % 3 != 0 || mine.empty()) {
            (void)allocator.allocate(BlockCount(1 + random() % 20), PoolBlock(0), mine);
          } else {
            std::swap(mine[random() % mine.size()], mine.back());
            (void)allocator.free(mine.back());
            mine.pop_back();
          }
        }
      });
    }
  }
  std::vector<PoolRange> runs = allocator.snapshot();
  for (const auto& mine : held) runs.insert(runs.end(), mine.begin(), mine.end());
  std::ranges::sort(runs);
  PoolBlock at = area.start;
  for (const PoolRange& run : runs) {
    REQUIRE(run.start == at);
    at = run.end();
  }
  REQUIRE(at == area.end());
}

}  // namespace
}  // namespace daxfs
