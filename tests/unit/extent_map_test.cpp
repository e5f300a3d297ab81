// The extent map against a reference that has one entry per file block; what it commits is read
// back from the medium each time.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "tests/unit/extent_map_bench.h"

namespace daxfs::extent_map_test {
namespace {

// --- the interface, piece by piece ---

TEST_CASE("extent map: an empty one is a hole", "[extent_map]") {
  Bench b;
  REQUIRE(b.map.size() == 0);
  const auto run = b.map.run_at(FileBlock(5), BlockCount(10));
  REQUIRE(run.range == files(5, 10));
  REQUIRE(!run.pool);
  REQUIRE(!b.map.first_from(FileBlock(0)));
  REQUIRE(!b.map.last());
  std::vector<PoolRange> removed;
  REQUIRE(b.map.remove(b.tx, files(0, 100), 5, removed) == FileBlock(100));
  b.map.mark_written(b.tx, files(0, 100));
  REQUIRE(b.tx.empty());
  REQUIRE(removed.empty());
  REQUIRE(b.load().value().size() == 0);
}

TEST_CASE("extent map: tells where a block lies, where holes are, and what comes next",
          "[extent_map]") {
  Bench b;
  b.add(extent(10, 100, 5));
  b.add(extent(20, 200, 5, true));
  b.add(extent((1ull << 51) - 1, 300, 1));
  REQUIRE(b.map.mapped() == BlockCount(11));

  const auto hole = b.map.run_at(FileBlock(0), BlockCount(100));
  REQUIRE((hole.range == files(0, 10) && !hole.pool));
  const auto mapped = b.map.run_at(FileBlock(12), BlockCount(100));
  REQUIRE((mapped.range == files(12, 3) && mapped.pool == PoolBlock(102) && !mapped.unwritten));
  const auto cut = b.map.run_at(FileBlock(21), BlockCount(2));
  REQUIRE((cut.range == files(21, 2) && cut.pool == PoolBlock(201) && cut.unwritten));
  REQUIRE(b.map.run_at(FileBlock(15), BlockCount(3)).range == files(15, 3));
  REQUIRE(b.map.run_at(FileBlock(15), BlockCount(50)).range == files(15, 5));

  REQUIRE(b.map.first_from(FileBlock(14)) == extent(10, 100, 5));
  REQUIRE(b.map.first_from(FileBlock(15)) == extent(20, 200, 5, true));
  REQUIRE(b.map.last() == extent((1ull << 51) - 1, 300, 1));
  REQUIRE(b.map.physical(files(12, 10)) ==
          std::vector<PoolRange>{{PoolBlock(102), BlockCount(3)}, {PoolBlock(200), BlockCount(2)}});
  REQUIRE(b.map.physical(files(15, 5)).empty());
}

TEST_CASE("extent map: what runs on is merged", "[extent_map]") {
  Bench b;
  b.add(extent(10, 100, 5));
  SECTION("behind") { b.add(extent(15, 105, 5)); }
  SECTION("before") { b.add(extent(5, 95, 5)); }
  SECTION("between") {
    b.add(extent(20, 110, 5));
    REQUIRE(b.map.size() == 2);
    b.commit();
    b.add(extent(15, 105, 5));
    REQUIRE(b.tx.size() == Bench::staged(2));
  }
  REQUIRE(b.map.size() == 1);
  b.commit();
  REQUIRE(all(b.load().value()) == all(b.map));
}

TEST_CASE("extent map: what does not run on is not merged", "[extent_map]") {
  Bench b;
  b.add(extent(10, 100, 5));
  SECTION("not in the pool") { b.add(extent(15, 106, 5)); }
  SECTION("not in the file") { b.add(extent(16, 105, 5)); }
  SECTION("not in kind") { b.add(extent(15, 105, 5, true)); }
  REQUIRE(b.map.size() == 2);
}

TEST_CASE("extent map: a record's count has 32 bits", "[extent_map]") {
  Bench b;
  constexpr std::uint64_t kHalf = 1ull << 31;
  b.add(extent(0, 100, kHalf));
  SECTION("one too many") {
    b.add(extent(kHalf, 100 + kHalf, kHalf));
    REQUIRE(b.map.size() == 2);
  }
  SECTION("just fits") {
    b.add(extent(kHalf, 100 + kHalf, kHalf - 1));
    REQUIRE(b.map.size() == 1);
  }
}

TEST_CASE("extent map: remove cuts at the edges and stops at its limit", "[extent_map]") {
  Bench b;
  for (std::uint64_t i = 0; i < 4; ++i) b.add(extent(100 * i, 1000 + 100 * i, 50));
  b.commit();
  REQUIRE(b.map.reserve(b.record, 1).has_value());
  std::vector<PoolRange> removed;

  SECTION("a part in the middle") {
    REQUIRE(b.map.remove(b.tx, files(110, 5), 9, removed) == FileBlock(115));
    REQUIRE(b.tx.size() == Bench::staged(2));
    REQUIRE(removed == std::vector<PoolRange>{{PoolBlock(1110), BlockCount(5)}});
    REQUIRE(b.map.size() == 5);
  }
  SECTION("head and tail") {
    REQUIRE(b.map.remove(b.tx, files(130, 100), 9, removed) == FileBlock(230));
    REQUIRE(b.tx.size() == Bench::staged(2));
    REQUIRE(removed == std::vector<PoolRange>{{PoolBlock(1130), BlockCount(20)},
                                              {PoolBlock(1200), BlockCount(30)}});
  }
  SECTION("step by step, holes skipped") {
    REQUIRE(b.map.remove(b.tx, files(20, 1000), 0, removed) == FileBlock(20));
    REQUIRE(b.tx.empty());
    REQUIRE(b.map.remove(b.tx, files(20, 1000), 1, removed) == FileBlock(100));
    REQUIRE(b.map.remove(b.tx, files(20, 1000), 2, removed) == FileBlock(300));
    REQUIRE(b.map.remove(b.tx, files(20, 1000), 1, removed) == FileBlock(1020));
    REQUIRE(b.map.size() == 1);
    REQUIRE(removed.size() == 4);
    REQUIRE(b.map.mapped() == BlockCount(20));
  }
  b.commit();
  REQUIRE(all(b.load().value()) == all(b.map));
}

TEST_CASE("extent map: part of an unwritten extent becomes written", "[extent_map]") {
  Bench b;
  b.add(extent(0, 100, 30, true));
  REQUIRE(b.map.reserve(b.record, 2).has_value());
  b.map.mark_written(b.tx, files(10, 10));
  REQUIRE(all(b.map) ==
          std::vector{extent(0, 100, 10, true), extent(10, 110, 10), extent(20, 120, 10, true)});
  b.map.mark_written(b.tx, files(0, 100));
  REQUIRE(all(b.map) == std::vector{extent(0, 100, 30)});
  REQUIRE(b.map.mapped() == BlockCount(30));
  b.commit();
  REQUIRE(all(b.load().value()) == all(b.map));
}

TEST_CASE("extent map: writing a preallocated file in order makes no extent per write",
          "[extent_map]") {
  Bench b;
  b.add(extent(0, 100, 1000, true));
  b.commit();
  const bool upwards = GENERATE(true, false);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    REQUIRE(b.map.reserve(b.record, 2).has_value());
    b.map.mark_written(b.tx, files(upwards ? i : 999 - i, 1));
    REQUIRE(b.map.size() == (i == 999 ? 1 : 2));
    REQUIRE(b.tx.size() <= Bench::staged(2));
    b.commit();
  }
  REQUIRE(b.map.chain().empty());
  REQUIRE(all(b.load().value()) == std::vector{extent(0, 100, 1000)});
}

TEST_CASE("extent map: reserve is all or nothing", "[extent_map]") {
  Bench b(8);
  REQUIRE(b.map.reserve(b.record, kInline).has_value());
  REQUIRE(b.map.chain().empty());
  REQUIRE(b.map.reserve(b.record, kInline + 8 * kSlots + 1) == fail(ENOSPC));
  REQUIRE(b.record.extent_block == 0);
  REQUIRE(b.map.chain().empty());
  REQUIRE(b.allocator.free_blocks() == BlockCount(8));

  REQUIRE(b.map.reserve(b.record, kInline + 8 * kSlots).has_value());
  REQUIRE(b.map.chain().size() == 8);
  REQUIRE(b.record.extent_block == b.map.chain().back().value);
  b.commit();
  REQUIRE(b.load().value().chain() == b.map.chain());
}

TEST_CASE("extent map: an empty map can give its chain back", "[extent_map]") {
  Bench b;
  for (std::uint64_t i = 0; i < 300; ++i) b.add(extent(2 * i, 100 + i, 1));
  b.commit();
  REQUIRE(b.map.chain().size() == 3);
  const auto chain = b.map.chain();
  std::vector<PoolRange> removed;
  std::vector<PoolRange> released;
  REQUIRE(b.map.remove(b.tx, files(0, 600), 1000, removed) == FileBlock(600));
  b.map.release_chain(b.record, released);
  b.commit();
  REQUIRE(b.record.extent_block == 0);
  REQUIRE(b.map.chain().empty());
  REQUIRE(released.size() == chain.size());
  REQUIRE(b.load().value().size() == 0);

  for (std::uint64_t i = 0; i < kInline; ++i) b.map.insert(b.tx, extent(2 * i, 100, 1));
  b.commit();
  REQUIRE(all(b.load().value()) == all(b.map));
}

TEST_CASE("extent map: one of 100,000 extents costs as much as one of one", "[extent_map]") {
  constexpr std::uint64_t kExtents = 100'000;
  Bench b(2 * kExtents);
  std::vector<std::uint64_t> order(kExtents);
  for (std::uint64_t i = 0; i < kExtents; ++i) order[i] = i;
  std::ranges::shuffle(order, std::mt19937_64(3));
  for (std::uint64_t i = 0; i < kExtents; ++i) {
    b.add(extent(10 * order[i], 32 + order[i], 9));
    if (i % 100 == 99) b.commit();
  }
  REQUIRE(b.map.size() == kExtents);
  REQUIRE(Bench::staged(1) <= ExtentMap::kStagedBytesPerSlot);

  std::vector<PoolRange> removed;
  REQUIRE(b.map.remove(b.tx, files(500'000, 10), 9, removed) == FileBlock(500'010));
  REQUIRE(b.tx.size() == Bench::staged(1));
  b.commit();
  REQUIRE(b.map.reserve(b.record, 1).has_value());
  b.map.remove(b.tx, files(600'003, 2), 9, removed);
  REQUIRE(b.tx.size() == Bench::staged(2));
  b.commit();

  const auto loaded = b.load();
  REQUIRE(loaded.has_value());
  REQUIRE(loaded->size() == kExtents);
  REQUIRE(all(*loaded) == all(b.map));
}

// --- random use ---

class Reference {
 public:
  struct Block {
    std::uint64_t pool = 0;  // 0: hole
    bool unwritten = false;
  };

  explicit Reference(std::size_t blocks) : blocks_(blocks) {}

  Block& operator[](std::uint64_t at) { return blocks_.at(at); }
  std::size_t size() const { return blocks_.size(); }
  // As few extents as the contents allow.
  std::vector<Extent> extents() const {
    std::vector<Extent> out;
    for (std::uint64_t i = 0; i < blocks_.size(); ++i) {
      const Block& block = blocks_[i];
      if (block.pool == 0) continue;
      if (!out.empty() && out.back().end() == FileBlock(i) &&
          (out.back().pool + out.back().count).value == block.pool &&
          out.back().unwritten == block.unwritten) {
        out.back().count += BlockCount(1);
      } else {
        out.push_back(extent(i, block.pool, 1, block.unwritten));
      }
    }
    return out;
  }

 private:
  std::vector<Block> blocks_;
};

void require_same(const ExtentMap& map, const Reference& reference) {
  const std::vector<Extent> expected = reference.extents();
  REQUIRE(all(map) == expected);
  REQUIRE(map.size() == expected.size());
  BlockCount mapped;
  for (const Extent& e : expected) mapped += e.count;
  REQUIRE(map.mapped() == mapped);
}

// Fills the holes of `range`, each with runs from wherever the allocator finds them.
void fill(Bench& b, Reference& reference, FileRange range, bool unwritten, bool follow) {
  for (FileBlock at = range.start; at < range.end();) {
    const auto run = b.map.run_at(at, range.end() - at);
    at = run.range.end();
    if (run.pool) continue;
    PoolBlock goal(0);
    const std::uint64_t start = run.range.start.value;
    if (follow && start != 0 && reference[start - 1].pool != 0) {
      goal = PoolBlock(reference[start - 1].pool + 1);
    }
    std::vector<PoolRange> runs;
    REQUIRE(b.allocator.allocate(run.range.count, goal, runs).has_value());
    REQUIRE(b.map.reserve(b.record, runs.size()).has_value());
    FileBlock to = run.range.start;
    for (const PoolRange& r : runs) {
      b.map.insert(b.tx, {to, r.start, r.count, unwritten});
      for (std::uint64_t i = 0; i < r.count.value; ++i) {
        reference[to.value + i] = {r.start.value + i, unwritten};
      }
      to += r.count;
    }
  }
}

void punch(Bench& b, Reference& reference, FileRange range, std::size_t limit,
           std::vector<PoolRange>& removed) {
  REQUIRE(b.map.reserve(b.record, 1).has_value());
  std::vector<PoolRange> now;
  const FileBlock done = b.map.remove(b.tx, range, limit, now);
  std::vector<PoolRange> expected;
  for (std::uint64_t i = range.start.value; i < done.value; ++i) {
    if (reference[i].pool != 0) expected.push_back({PoolBlock(reference[i].pool), BlockCount(1)});
    reference[i] = {};
  }
  REQUIRE(now.size() <= limit);
  REQUIRE((done == range.end() || reference[done.value].pool != 0));
  std::size_t at = 0;
  for (const PoolRange& r : now) {
    for (PoolBlock block = r.start; block < r.end(); block += BlockCount(1)) {
      REQUIRE(expected.at(at++).start == block);
    }
    removed.push_back(r);
  }
  REQUIRE(at == expected.size());
}

TEST_CASE("extent map: random use agrees with the reference and with the medium", "[extent_map]") {
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
    std::mt19937_64 random(seed);
    Bench b;
    Reference reference(3000);
    // Small holes in the free space, so that runs are short and many.
    std::vector<PoolRange> taken;
    for (std::uint64_t i = 0; i < 1500; ++i) {
      REQUIRE(b.allocator.allocate(BlockCount(1), PoolBlock(32 + 7 * i), taken).has_value());
    }
    const BlockCount free_at_start = b.allocator.free_blocks();

    for (int step = 0; step < 800; ++step) {
      std::vector<PoolRange> removed;
      for (std::uint64_t changes = 1 + random() % 3; changes != 0; --changes) {
        const std::uint64_t start = random() % reference.size();
        const std::uint64_t most =
            std::min<std::uint64_t>(random() % 8 == 0 ? 200 : 12, reference.size() - start);
        const FileRange range = files(start, 1 + random() % most);
        switch (random() % 5) {
          case 0:
          case 1:
            fill(b, reference, range, random() % 2 == 0, random() % 2 == 0);
            break;
          case 2:
          case 3:
            REQUIRE(b.map.reserve(b.record, 2).has_value());
            b.map.mark_written(b.tx, range);
            for (std::uint64_t i = start; i < range.end().value; ++i) {
              reference[i].unwritten = false;
            }
            break;
          default:
            punch(b, reference, range, random() % 20, removed);
        }
      }
      b.commit();
      for (const PoolRange& r : removed) REQUIRE(b.allocator.free(r).has_value());

      require_same(b.map, reference);
      auto loaded = b.load();
      REQUIRE(loaded.has_value());
      require_same(*loaded, reference);
      REQUIRE(loaded->chain() == b.map.chain());
      const FileBlock probe(random() % reference.size());
      const auto run = loaded->run_at(probe, BlockCount(1));
      REQUIRE(run.pool.value_or(PoolBlock(0)).value == reference[probe.value].pool);
      REQUIRE(run.unwritten == reference[probe.value].unwritten);
      // Goes on with what the medium says, so that slots that load() numbers otherwise would show.
      if (random() % 2 == 0) b.map = *std::move(loaded);
    }
    REQUIRE(b.map.chain().size() > 1);

    // Emptying it in steps gives every block back.
    FileBlock done(0);
    while (done < FileBlock(reference.size())) {
      std::vector<PoolRange> removed;
      done = b.map.remove(b.tx, {done, FileBlock(reference.size()) - done}, 64, removed);
      if (b.map.size() == 0) b.map.release_chain(b.record, removed);
      b.commit();
      for (const PoolRange& r : removed) REQUIRE(b.allocator.free(r).has_value());
    }
    REQUIRE(b.load().value().size() == 0);
    REQUIRE(b.allocator.free_blocks() == free_at_start);
  }
}

}  // namespace
}  // namespace daxfs::extent_map_test
