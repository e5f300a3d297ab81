// The counted interval map against one counter per block.
#include "lease/pin_counts.h"

#include <array>
#include <random>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

PoolRange range_of(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

struct Segment {
  PoolRange range;
  PinCounts counts;
  bool operator==(const Segment&) const = default;
};

std::vector<Segment> segments(const PinCountMap& map, PoolRange range) {
  std::vector<Segment> result;
  map.for_each(range, [&](PoolRange r, PinCounts c) { result.push_back({r, c}); });
  return result;
}

}  // namespace

TEST_CASE("pin counts: overlapping pins of both kinds") {
  PinCountMap map;
  map.add(range_of(10, 10), PinKind::long_term, 1);
  map.add(range_of(15, 10), PinKind::short_term, 1);
  CHECK(segments(map, range_of(0, 100)) == std::vector<Segment>{{range_of(10, 5), {1, 0}},
                                                                {range_of(15, 5), {1, 1}},
                                                                {range_of(20, 5), {0, 1}}});
  CHECK(segments(map, range_of(12, 4)) ==
        std::vector<Segment>{{range_of(12, 3), {1, 0}}, {range_of(15, 1), {1, 1}}});
  CHECK_FALSE(map.any(range_of(0, 10)));
  CHECK(map.any(range_of(24, 5)));
  CHECK_FALSE(map.any(range_of(25, 5)));

  std::vector<PoolRange> unpinned;
  map.remove(range_of(10, 10), PinKind::long_term, 1, unpinned);
  CHECK(unpinned == std::vector<PoolRange>{range_of(10, 5)});
  unpinned.clear();
  map.remove(range_of(15, 10), PinKind::short_term, 1, unpinned);
  CHECK(unpinned == std::vector<PoolRange>{range_of(15, 10)});
  CHECK(map.segments() == 0);
}

TEST_CASE("pin counts: neighbours with equal counts and owner take one segment") {
  PinCountMap map;
  for (std::uint64_t i = 0; i < 1000; i += 2) map.add(range_of(i, 1), PinKind::long_term, 7);
  CHECK(map.segments() == 500);
  for (std::uint64_t i = 1; i < 1000; i += 2) map.add(range_of(i, 1), PinKind::long_term, 7);
  CHECK(map.segments() == 1);
  map.add(range_of(1000, 1), PinKind::long_term, 8);
  CHECK(map.segments() == 2);
  CHECK(segments(map, range_of(0, 2000)) == std::vector<Segment>{{range_of(0, 1001), {1, 0}}});
}

TEST_CASE("pin counts: a run longer than 32 bits") {
  PinCountMap map;
  const std::uint64_t huge = (std::uint64_t{1} << 33) + 5;
  map.add(range_of(3, huge), PinKind::long_term, 1);
  map.add(range_of(3 + huge, 10), PinKind::long_term, 1);
  CHECK(segments(map, range_of(0, 2 * huge)) ==
        std::vector<Segment>{{range_of(3, huge + 10), {1, 0}}});
  std::vector<PoolRange> unpinned;
  map.remove(range_of(3, huge), PinKind::long_term, 1, unpinned);
  CHECK(unpinned == std::vector<PoolRange>{range_of(3, huge)});
  CHECK(segments(map, range_of(0, 2 * huge)) ==
        std::vector<Segment>{{range_of(3 + huge, 10), {1, 0}}});
}

TEST_CASE("pin counts: nothing comes of an empty range") {
  PinCountMap map;
  std::vector<PoolRange> unpinned;
  map.add(range_of(5, 0), PinKind::long_term, 1);
  CHECK(map.segments() == 0);
  map.add(range_of(0, 10), PinKind::long_term, 1);
  map.remove(range_of(5, 0), PinKind::long_term, 1, unpinned);
  CHECK(unpinned.empty());
  CHECK_FALSE(map.any(range_of(5, 0)));
}

TEST_CASE("pin counts: process 0 is nobody, not even itself") {
  PinCountMap map;
  map.add(range_of(0, 1), PinKind::long_term, 0);
  CHECK(map.foreign(map.at(PoolBlock(0)), Awaited::any, 0));
  CHECK(map.foreign(map.at(PoolBlock(0)), Awaited::any, 1));
  CHECK_FALSE(map.foreign(map.at(PoolBlock(0)), Awaited::short_term, 0));
}

TEST_CASE("pin counts: random pins against one list of owners per block") {
  constexpr std::uint64_t kBlocks = 120;
  struct Pin {
    PoolRange range;
    PinKind kind;
    pid_t process;
  };
  for (unsigned seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    PinCountMap map;
    std::vector<Pin> pins;
    // counts[block][kind][process]
    std::array<std::array<std::array<std::uint32_t, 4>, 2>, kBlocks> model{};
    const auto total = [&](std::uint64_t block, int kind) {
      std::uint32_t sum = 0;
      for (const std::uint32_t n : model[block][static_cast<std::size_t>(kind)]) sum += n;
      return sum;
    };
    for (int step = 0; step < 1000; ++step) {
      const bool add = pins.empty() || random() % 100 < (step < 700 ? 55u : 30u);
      if (add) {
        const std::uint64_t start = random() % kBlocks;
        const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(12, kBlocks - start);
        const Pin pin{range_of(start, count),
                      random() % 3 == 0 ? PinKind::short_term : PinKind::long_term,
                      static_cast<pid_t>(1 + random() % 3)};
        map.add(pin.range, pin.kind, pin.process);
        for (std::uint64_t b = start; b < start + count; ++b) {
          ++model[b][static_cast<std::size_t>(pin.kind)][static_cast<std::size_t>(pin.process)];
        }
        pins.push_back(pin);
      } else {
        std::swap(pins[random() % pins.size()], pins.back());
        const Pin pin = pins.back();
        pins.pop_back();
        std::vector<PoolRange> unpinned;
        map.remove(pin.range, pin.kind, pin.process, unpinned);
        std::vector<bool> said(kBlocks);
        for (const PoolRange& r : unpinned) {
          for (std::uint64_t b = r.start.value; b < r.end().value; ++b) {
            REQUIRE_FALSE(said[b]);
            said[b] = true;
          }
        }
        for (std::uint64_t b = 0; b < kBlocks; ++b) {
          const bool inside = b >= pin.range.start.value && b < pin.range.end().value;
          if (inside) {
            --model[b][static_cast<std::size_t>(pin.kind)][static_cast<std::size_t>(pin.process)];
          }
          if (said[b] != (inside && total(b, 0) == 0 && total(b, 1) == 0)) {
            FAIL("wrong about block " << b << " at step " << step);
          }
        }
      }
      // Everything, as for_each tells it.
      std::array<PinCounts, kBlocks> seen{};
      PoolBlock last_end(0);
      PinCounts last{};
      map.for_each(range_of(0, kBlocks), [&](PoolRange r, PinCounts c) {
        REQUIRE(r.start >= last_end);
        REQUIRE_FALSE(c.none());
        REQUIRE_FALSE((r.start == last_end && c == last));
        for (std::uint64_t b = r.start.value; b < r.end().value; ++b) seen.at(b) = c;
        last_end = r.end();
        last = c;
      });
      // A border exactly where owners of a kind change.
      std::size_t runs = 0;
      for (int kind = 0; kind < 2; ++kind) {
        const auto k = static_cast<std::size_t>(kind);
        for (std::uint64_t b = 0; b < kBlocks; ++b) {
          if (total(b, kind) > 0 && (b == 0 || model[b][k] != model[b - 1][k])) ++runs;
        }
      }
      REQUIRE(map.segments() == runs);
      for (std::uint64_t b = 0; b < kBlocks; ++b) {
        const PinCountMap::Cover cover = map.at(PoolBlock(b));
        if (seen[b] != PinCounts{total(b, 0), total(b, 1)} || cover.counts() != seen[b]) {
          FAIL("wrong counts of block " << b << " at step " << step);
        }
        for (const pid_t process : {1, 2, 3}) {
          const auto p = static_cast<std::size_t>(process);
          const bool short_foreign = total(b, 1) != model[b][1][p];
          const bool long_foreign = total(b, 0) != model[b][0][p];
          if (map.foreign(cover, Awaited::short_term, process) != short_foreign ||
              map.foreign(cover, Awaited::any, process) != (short_foreign || long_foreign)) {
            FAIL("wrong owners of block " << b << " at step " << step);
          }
        }
      }
    }
    std::vector<PoolRange> unpinned;
    for (const Pin& pin : pins) map.remove(pin.range, pin.kind, pin.process, unpinned);
    REQUIRE(map.segments() == 0);
  }
}
