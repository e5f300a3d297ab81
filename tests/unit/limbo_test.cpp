// Limbo against a flag per block.
#include "lease/limbo.h"

#include <random>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

PoolRange range_of(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}
Limbo::Time at(int seconds) { return Limbo::Time(std::chrono::seconds(seconds)); }

}  // namespace

TEST_CASE("limbo: pieces keep their time, neighbours of one time are one piece") {
  Limbo limbo;
  limbo.add(range_of(10, 5), at(1));
  limbo.add(range_of(15, 5), at(1));
  limbo.add(range_of(20, 5), at(2));
  CHECK(limbo.total() == BlockCount(15));
  Limbo::Piece piece;
  REQUIRE(limbo.next(PoolBlock(0), piece));
  CHECK(piece.range == range_of(10, 10));
  CHECK(piece.since == at(1));
  REQUIRE(limbo.next(PoolBlock(12), piece));
  CHECK(piece.range == range_of(12, 8));
  REQUIRE(limbo.next(PoolBlock(20), piece));
  CHECK(piece.range == range_of(20, 5));
  CHECK(piece.since == at(2));
  CHECK_FALSE(limbo.next(PoolBlock(25), piece));
}

TEST_CASE("limbo: a release takes what is there, and out of the middle") {
  Limbo limbo;
  limbo.add(range_of(10, 10), at(1));
  std::vector<PoolRange> freed;
  limbo.release(range_of(0, 10), freed);
  limbo.release(range_of(20, 10), freed);
  limbo.release(range_of(12, 0), freed);
  CHECK(freed.empty());
  limbo.release(range_of(13, 3), freed);
  CHECK(freed == std::vector<PoolRange>{range_of(13, 3)});
  CHECK(limbo.total() == BlockCount(7));
  freed.clear();
  limbo.release(range_of(0, 100), freed);
  CHECK(freed == std::vector<PoolRange>{range_of(10, 3), range_of(16, 4)});
  CHECK(limbo.total() == BlockCount(0));
}

TEST_CASE("limbo: random adds and releases") {
  constexpr std::uint64_t kBlocks = 200;
  std::mt19937 random(1);
  Limbo limbo;
  std::vector<int> since(kBlocks, -1);
  for (int step = 0; step < 5000; ++step) {
    const std::uint64_t start = random() % kBlocks;
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(20, kBlocks - start);
    if (random() % 2 == 0) {
      // What of the range is not in limbo goes in.
      const int now = step / 3;
      for (std::uint64_t b = start; b < start + count; ++b) {
        if (since[b] != -1) continue;
        limbo.add(range_of(b, 1), at(now));
        since[b] = now;
      }
    } else {
      std::vector<PoolRange> freed;
      limbo.release(range_of(start, count), freed);
      std::vector<bool> said(kBlocks);
      for (const PoolRange& r : freed) {
        for (std::uint64_t b = r.start.value; b < r.end().value; ++b) {
          REQUIRE_FALSE(said[b]);
          said[b] = true;
        }
      }
      for (std::uint64_t b = 0; b < kBlocks; ++b) {
        const bool inside = b >= start && b < start + count;
        if (said[b] != (inside && since[b] != -1)) FAIL("wrong about block " << b);
        if (inside) since[b] = -1;
      }
    }
    std::vector<int> seen(kBlocks, -1);
    std::uint64_t total = 0;
    Limbo::Piece piece;
    for (PoolBlock from(0); limbo.next(from, piece); from = piece.range.end()) {
      REQUIRE(piece.range.start >= from);
      total += piece.range.count.value;
      for (std::uint64_t b = piece.range.start.value; b < piece.range.end().value; ++b) {
        seen[b] = static_cast<int>(
            std::chrono::duration_cast<std::chrono::seconds>(piece.since.time_since_epoch())
                .count());
      }
    }
    REQUIRE(seen == since);
    REQUIRE(limbo.total() == BlockCount(total));
  }
}
