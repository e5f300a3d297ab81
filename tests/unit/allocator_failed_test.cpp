// Free space once the storage below has failed.
#include "blockmap/allocator.h"
#include "blockmap/medium/heap_medium.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

struct FailingMedium : HeapMedium {
  using HeapMedium::HeapMedium;
  bool failed() const override { return has_failed; }
  bool has_failed = false;
};

PoolRange range(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

}  // namespace

TEST_CASE("allocator: nothing comes back once the medium has failed", "[allocator]") {
  FailingMedium medium{ByteCount(kBlockSize)};
  Allocator allocator(medium);
  REQUIRE(allocator.free(range(100, 50)));
  std::vector<PoolRange> taken;
  REQUIRE(allocator.allocate(BlockCount(20), PoolBlock(0), taken));
  REQUIRE(allocator.free({taken[0].start, BlockCount(5)}));
  REQUIRE(allocator.free_blocks() == BlockCount(35));

  medium.has_failed = true;
  CHECK(allocator.free({taken[0].start + BlockCount(5), BlockCount(15)}));
  CHECK(allocator.free_blocks() == BlockCount(35));
  // What was free before still is, and nothing else.
  std::vector<PoolRange> rest;
  CHECK(allocator.allocate(BlockCount(36), PoolBlock(0), rest) == fail(ENOSPC));
  REQUIRE(allocator.allocate(BlockCount(35), PoolBlock(0), rest));
  for (const PoolRange& run : rest) {
    CHECK((run.end() <= taken[0].start + BlockCount(5) || run.start >= taken[0].end()));
  }
  // The bug of a caller still shows.
  CHECK(allocator.free(range(~0ull - 1, 5)) == fail(EUCLEAN));
}
