// The pool as cells: sizes, borders, and who is named.
#include "src/pool_map.h"

#include <nlohmann/json.hpp>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

PoolRange run(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

using Json = nlohmann::json;

}  // namespace

TEST_CASE("pool map: a small pool has a cell for each block, a large one cells of a power of two") {
  CHECK(PoolMap(run(10, 4096)).cells() == 4096);
  CHECK(PoolMap(run(10, 4097)).cells() == 2049);
  const PoolMap large(run(1000, 1ull << 28));
  CHECK(large.cells() == 4096);
  CHECK(large.area_of(4095).end() == PoolBlock(1000 + (1ull << 28)));
  // The last cell is cut at the end of the area.
  CHECK(PoolMap(run(10, 4097)).area_of(2048).count == BlockCount(1));
}

TEST_CASE("pool map: what is used, pinned, in limbo and in grace is counted once each") {
  PoolMap map(run(100, 8192));  // cells of 2 blocks
  for (std::uint64_t cell = 0; cell < map.cells(); ++cell) map.set_free(cell, BlockCount(2));
  CHECK(Json::parse(map.text())["cells"].empty());
  map.set_free(3, BlockCount(0));  // blocks 106 and 107
  map.set_free(4, BlockCount(1));  // one of 108 and 109
  map.add_pinned(run(107, 2));     // over the border of two cells
  map.add_holder(run(107, 2), 42);
  map.add_pinned(run(90, 5));  // before the area
  map.add_limbo(run(108, 1));
  const Json text = Json::parse(map.text());
  CHECK(text["cell_blocks"] == 2);
  CHECK(text["first_block"] == 100);
  CHECK(text["blocks"] == 8192);
  REQUIRE(text["cells"].size() == 2);
  CHECK(text["cells"][0] == Json::array({3, 2, 1, 0, 0, 42}));
  CHECK(text["cells"][1] == Json::array({4, 0, 0, 1, 0, 42}));
}

TEST_CASE("pool map: who has most of a cell is named, of two alike the lower number") {
  PoolMap map(run(0, 4 * 4096));  // cells of 4 blocks
  for (std::uint64_t cell = 0; cell < map.cells(); ++cell) map.set_free(cell, BlockCount(0));
  map.add_holder(run(0, 1), 7);
  map.add_holder(run(1, 2), 9);
  map.add_holder(run(4, 2), 9);
  map.add_holder(run(6, 2), 8);
  map.add_grace(run(8, 2));
  map.add_pinned(run(8, 2));
  const Json cells = Json::parse(map.text())["cells"];
  CHECK(cells[0][5] == 9);
  CHECK(cells[1][5] == 8);
  CHECK(cells[2] == Json::array({2, 4, 0, 0, 2, 0}));
}
