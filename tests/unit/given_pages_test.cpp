#include "src/given_pages.h"

#include <cstddef>
#include <vector>

#include "tests/unit/catch.h"

namespace daxfs {
namespace {

constexpr InodeNumber kInode{7};
constexpr FileRange kPinned{FileBlock(1), BlockCount(2)};

std::vector<std::byte> pages(std::size_t count, int value) {
  return std::vector<std::byte>(count * kBlockSize, static_cast<std::byte>(value));
}
std::size_t bytes_in(const std::vector<GivenPages::Piece>& pieces) {
  std::size_t sum = 0;
  for (const auto& piece : pieces) sum += piece.length;
  return sum;
}

}  // namespace

TEST_CASE("of a page that comes back, what has been stored into it is written") {
  GivenPages given;
  auto data = pages(4, 1);
  REQUIRE(given.given(kInode, FileOffset(0), data, {{kPinned}}));
  CHECK(bytes_in(given.changes(kInode, FileOffset(kBlockSize), {data.data(), kBlockSize})) == 0);
  data[kBlockSize + 5] = std::byte{2};
  data[kBlockSize + 6] = std::byte{2};
  const auto at = FileOffset(0);
  // Blocks 0 and 3 are not pinned, so nothing is known of them.
  auto pieces = given.changes(kInode, at, data);
  REQUIRE(pieces.size() == 3);
  CHECK(pieces[0].length == kBlockSize);
  CHECK((pieces[1].from == kBlockSize + 5 && pieces[1].length == 2));
  CHECK((pieces[2].from == 3 * kBlockSize && pieces[2].length == kBlockSize));
  // What has come back is what the kernel has.
  CHECK(given.changes(kInode, at, data).size() == 2);
}

TEST_CASE("the end of a file is given with zeroes behind it") {
  GivenPages given;
  auto data = pages(1, 1);
  REQUIRE(given.given(kInode, FileOffset(kBlockSize), {data.data(), 100}, {{kPinned}}));
  std::fill(data.begin() + 100, data.end(), std::byte{0});
  CHECK(given.changes(kInode, FileOffset(kBlockSize), data).empty());
}

TEST_CASE("what the kernel writes, clears and drops by itself is known") {
  GivenPages given;
  auto data = pages(2, 1);
  REQUIRE(given.given(kInode, FileOffset(kBlockSize), data, {{kPinned}}));
  SECTION("a part written") {
    const auto some = pages(1, 9);
    given.written(kInode, FileOffset(kBlockSize + 10), {some.data(), 20}, true);
    std::fill_n(data.begin() + 10, 20, std::byte{9});
    CHECK(given.changes(kInode, FileOffset(kBlockSize), data).empty());
  }
  SECTION("a whole page written") {
    const auto page = pages(1, 9);
    given.written(kInode, FileOffset(kBlockSize), page, false);
    CHECK(bytes_in(given.changes(kInode, FileOffset(kBlockSize), page)) == kBlockSize);
    given.written(kInode, FileOffset(kBlockSize), page, true);
    CHECK(given.changes(kInode, FileOffset(kBlockSize), page).empty());
  }
  SECTION("cleared") {
    given.zeroed(kInode, FileOffset(kBlockSize + 100), ByteCount(UINT64_MAX));
    std::fill(data.begin() + 100, data.end(), std::byte{0});
    CHECK(bytes_in(given.changes(kInode, FileOffset(kBlockSize), data)) == kBlockSize);
  }
  SECTION("read again where nothing is pinned") {
    REQUIRE(given.given(kInode, FileOffset(kBlockSize), data, {}));
    CHECK_FALSE(given.any());
  }
  SECTION("dropped") {
    const auto time = given.now();
    REQUIRE(given.given(kInode, FileOffset(2 * kBlockSize), pages(1, 3), {{kPinned}}));
    given.forget_until(kInode, time);
    CHECK(given.changes(kInode, FileOffset(2 * kBlockSize), pages(1, 3)).empty());
    CHECK(bytes_in(given.changes(kInode, FileOffset(kBlockSize), pages(1, 1))) == kBlockSize);
    given.forget(kInode);
    CHECK_FALSE(given.any());
  }
}

TEST_CASE("there is an end to what is remembered") {
  GivenPages given;
  const FileRange all{FileBlock(0), BlockCount(2 * GivenPages::kMost)};
  REQUIRE(given.given(kInode, FileOffset(0), pages(GivenPages::kMost, 1), {{all}}));
  const FileOffset next(GivenPages::kMost * kBlockSize);
  CHECK_FALSE(given.given(kInode, next, pages(1, 1), {{all}}));
  CHECK(given.given(kInode, FileOffset(0), pages(1, 2), {{all}}));  // known ones may change
}

}  // namespace daxfs
