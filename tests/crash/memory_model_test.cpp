// What the memory model allows, and what it does not.
#include <map>
#include <set>

#include "tests/crash/crash_points.h"
#include "tests/crash/recording_medium.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

constexpr ByteCount kPool(4 * kBlockSize);

std::uint64_t word(const Medium& medium, std::uint64_t at) {
  return medium.load<std::uint64_t>(PoolOffset(at));
}

// Every pair of values that words at `a` and `b` are found with, by calls done.
using Pairs = std::set<std::pair<std::uint64_t, std::uint64_t>>;
std::map<std::size_t, Pairs> pairs(RecordingMedium& medium, std::uint64_t a, std::uint64_t b) {
  std::map<std::size_t, Pairs> out;
  medium.explore({.torn = 40}, 1, [&](Medium& image, std::size_t done) {
    out[done].insert({word(image, a), word(image, b)});
  });
  return out;
}

}  // namespace

TEST_CASE("lines arrive in any order until the fence", "[crash]") {
  RecordingMedium medium(kPool);
  medium.store_u64(PoolOffset(0), 1);
  medium.store_u64(PoolOffset(64), 2);
  medium.fence();
  auto found = pairs(medium, 0, 64);
  CHECK(found[2] == Pairs{{0, 0}, {1, 0}, {0, 2}, {1, 2}});
  CHECK(found[3] == Pairs{{1, 2}});
}

TEST_CASE("calls on one line arrive in their order", "[crash]") {
  RecordingMedium medium(kPool);
  medium.store_u64(PoolOffset(0), 1);
  medium.store_u64(PoolOffset(8), 2);
  medium.store_u64(PoolOffset(0), 3);
  medium.fence();
  CHECK(pairs(medium, 0, 8)[3] == Pairs{{0, 0}, {1, 0}, {1, 2}, {3, 2}});
}

TEST_CASE("one long call arrives word by word, in any order", "[crash]") {
  RecordingMedium medium(kPool);
  const std::array<std::uint64_t, 2> both{1, 2};
  SECTION("stored") { medium.store(PoolOffset(0), std::as_bytes(std::span(both))); }
  SECTION("past the caches") { medium.write(PoolOffset(0), std::as_bytes(std::span(both))); }
  medium.fence();
  CHECK(pairs(medium, 0, 8)[1] == Pairs{{0, 0}, {1, 0}, {0, 2}, {1, 2}});
}

TEST_CASE("what is not fenced may be lost for ever", "[crash]") {
  RecordingMedium medium(kPool);
  medium.store_u64(PoolOffset(0), 1);
  medium.fence();
  medium.store_u64(PoolOffset(64), 2);
  CHECK(pairs(medium, 0, 64)[3] == Pairs{{1, 0}, {1, 2}});
}

TEST_CASE("a fence settles what its own thread did", "[crash]") {
  RecordingMedium medium(kPool);
  medium.store_u64(PoolOffset(0), 1);
  std::thread([&] {
    medium.store_u64(PoolOffset(64), 2);
    medium.fence();
  }).join();
  CHECK(pairs(medium, 0, 64)[3] == Pairs{{0, 2}, {1, 2}});
}

TEST_CASE("a line that nobody flushed outlasts fences", "[crash]") {
  ReversibleMedium medium(kPool);
  Trace trace;
  medium.record_to(&trace);
  medium.store_u64(PoolOffset(0), 1);
  medium.fence();
  medium.record_to(nullptr);
  trace[0].flushed = false;
  ReversibleMedium image(kPool);
  std::set<std::uint64_t> found;
  std::mt19937_64 random(1);
  play(trace, image, [&](const Moment& moment, const PendingLines& pending) {
    if (moment.at != trace.size()) return;
    for_each_cut(
        pending, {}, [](std::uint64_t) { return 0; }, random,
        [&](const Cut& cut) {
          const auto mark = image.mark();
          pending.apply(cut, image);
          found.insert(word(image, 0));
          image.roll_back(mark);
        });
  });
  CHECK(found == std::set<std::uint64_t>{0, 1});
}

TEST_CASE("going back restores content and hash", "[crash]") {
  ReversibleMedium medium(kPool);
  medium.store_u64(PoolOffset(8), 7);
  const std::uint64_t hash = medium.hash();
  const auto mark = medium.mark();
  medium.zero(PoolOffset(0), ByteCount(100));
  medium.store_u64(PoolOffset(5000), 9);
  CHECK(medium.hash() != hash);
  CHECK(medium.block_hash(PoolBlock(1)) != 0);
  medium.store_u64(PoolOffset(8), 7);
  medium.store_u64(PoolOffset(5000), 0);
  CHECK(medium.hash() == hash);  // content alone counts, not how it came about
  medium.roll_back(mark);
  CHECK(medium.hash() == hash);
  CHECK(word(medium, 8) == 7);
  CHECK(word(medium, 5000) == 0);
}

TEST_CASE("a cut survives being written down", "[crash]") {
  const Cut cut{{0x1240, 2, 0x0f}, {64, 1, 0}, {128, 0, 0, 0x80}};
  CHECK(parse_cut(to_string(cut)) == cut);
  CHECK(parse_cut("none").empty());
  CHECK_THROWS(parse_cut("64=1"));
  CHECK_THROWS(parse_cut("0x40"));
  CHECK_THROWS(parse_cut("0x40=1;"));
}
