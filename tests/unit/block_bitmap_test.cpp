#include "blockmap/block_bitmap.h"

#include "tests/unit/catch.h"

using namespace daxfs;

TEST_CASE("a bitmap that was cleared has no marks, and takes new ones") {
  constexpr std::uint64_t kBlocks = 200'000;  // several pages of the bitmap
  BlockBitmap bitmap{BlockCount(kBlocks)};
  const PoolRange across{PoolBlock(32'000), BlockCount(70'000)};
  const PoolRange last{PoolBlock(kBlocks - 1), BlockCount(1)};
  bitmap.mark(across);
  bitmap.mark(last);
  CHECK(bitmap.find(0, kBlocks, true) == across.start.value);

  bitmap.clear();
  CHECK(bitmap.find(0, kBlocks, true) == kBlocks);
  CHECK_FALSE(bitmap.mark(last));
  CHECK(bitmap.find(0, kBlocks, true) == last.start.value);
}
