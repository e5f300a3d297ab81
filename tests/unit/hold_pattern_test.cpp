// The pin holder's pattern: whatever is not its own bytes is seen, and named for what it is.
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "base/units.h"
#include "tests/unit/catch.h"
#include "tools/hold/pattern.h"

namespace daxfs::hold {
namespace {

using Bytes = std::vector<std::byte>;

const Pattern kMine(HolderTag{0x1111222233334444u});
const Pattern kOther(HolderTag{0x5555666677778888u});
constexpr Generation kNow{7};
constexpr FileOffset kBlock(5 * kBlockSize);

Bytes made(const Pattern& pattern, FileOffset at, std::size_t size, Generation generation) {
  Bytes bytes(size);
  pattern.fill(at, bytes, generation);
  return bytes;
}

bool mentions(const Foreign& foreign, const std::string& text) {
  return foreign.attribution.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("hold pattern: what was filled in checks clean, whatever the range", "[hold]") {
  std::mt19937_64 random(11);
  for (int i = 0; i < 2000; ++i) {
    const FileOffset at(random() % (1u << 20));
    const std::size_t size = random() % 700;
    const Generation generation{random()};
    const Bytes bytes = made(kMine, at, size, generation);
    CAPTURE(at.value, size);
    REQUIRE_FALSE(kMine.check(at, bytes, generation));
  }
}

TEST_CASE("hold pattern: a range's bytes do not depend on how it is cut", "[hold]") {
  const Bytes whole = made(kMine, FileOffset(0), 8192, kNow);
  std::mt19937_64 random(12);
  for (int i = 0; i < 500; ++i) {
    const std::size_t from = random() % whole.size();
    const std::size_t size = random() % (whole.size() - from);
    const Bytes part = made(kMine, FileOffset(from), size, kNow);
    REQUIRE(
        std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(from)));
  }
}

TEST_CASE("hold pattern: every single flipped bit is found, at its offset", "[hold]") {
  Bytes bytes = made(kMine, kBlock, kBlockSize, kNow);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::byte bit = std::byte{1} << static_cast<int>(i % 8);
    bytes[i] ^= bit;
    const auto foreign = kMine.check(kBlock, bytes, kNow);
    REQUIRE(foreign);
    REQUIRE(foreign->offset == kBlock + ByteCount(i));
    REQUIRE(foreign->size >= 1);
    REQUIRE(foreign->found[0] == bytes[i]);
    REQUIRE(foreign->expected[0] == (bytes[i] ^ bit));
    bytes[i] ^= bit;
  }
  REQUIRE_FALSE(kMine.check(kBlock, bytes, kNow));
}

TEST_CASE("hold pattern: foreign bytes are attributed", "[hold]") {
  SECTION("another holder") {
    const Bytes bytes = made(kOther, FileOffset(9 * kBlockSize), kBlockSize, Generation{3});
    const auto foreign = kMine.check(kBlock, bytes, kNow);
    REQUIRE(foreign);
    CHECK(mentions(*foreign, "another holder 5555666677778888"));
    CHECK(mentions(*foreign, "offset 36864"));
    CHECK(mentions(*foreign, "generation 3"));
  }
  SECTION("another holder at the same place and generation") {
    const auto foreign = kMine.check(kBlock, made(kOther, kBlock, kBlockSize, kNow), kNow);
    REQUIRE(foreign);
    CHECK(mentions(*foreign, "another holder"));
  }
  SECTION("zeroes") {
    const auto foreign = kMine.check(kBlock, Bytes(kBlockSize), kNow);
    REQUIRE(foreign);
    CHECK(foreign->attribution == "zeroes");
  }
  SECTION("a stale generation") {
    const auto foreign = kMine.check(kBlock, made(kMine, kBlock, kBlockSize, Generation{6}), kNow);
    REQUIRE(foreign);
    CHECK(mentions(*foreign, "stale generation 6 instead of 7"));
  }
  SECTION("its own block, but another one") {
    const auto foreign =
        kMine.check(kBlock, made(kMine, FileOffset(4 * kBlockSize), kBlockSize, kNow), kNow);
    REQUIRE(foreign);
    CHECK(mentions(*foreign, "another place: file offset 16384"));
  }
  SECTION("text") {
    const auto foreign = kMine.check(kBlock, Bytes(kBlockSize, std::byte{'x'}), kNow);
    REQUIRE(foreign);
    CHECK(foreign->attribution == "somebody else's bytes");
    CHECK(hex(std::span(foreign->found).first(3)) == "78 78 78");
  }
  SECTION("damage behind an intact tag") {
    Bytes bytes = made(kMine, kBlock, kBlockSize, kNow);
    bytes[64 + 40] ^= std::byte{1};
    const auto foreign = kMine.check(kBlock, bytes, kNow);
    REQUIRE(foreign);
    CHECK(foreign->offset == kBlock + ByteCount(104));
    CHECK(mentions(*foreign, "damaged"));
  }
}

TEST_CASE("hold pattern: one foreign unit in the midst of a block is enough", "[hold]") {
  Bytes bytes = made(kMine, kBlock, kBlockSize, kNow);
  kOther.fill(kBlock + ByteCount(17 * 64), std::span(bytes).subspan(17 * 64, 64), kNow);
  const auto foreign = kMine.check(kBlock, bytes, kNow);
  REQUIRE(foreign);
  CHECK(foreign->offset == kBlock + ByteCount(17 * 64));
  CHECK(mentions(*foreign, "another holder"));
}

TEST_CASE("hold pattern: the edges of a range are checked although their units are cut", "[hold]") {
  Bytes bytes = made(kMine, FileOffset(100), 50, kNow);
  REQUIRE_FALSE(kMine.check(FileOffset(100), bytes, kNow));
  bytes.front() ^= std::byte{0x80};
  CHECK(kMine.check(FileOffset(100), bytes, kNow)->offset == FileOffset(100));
  bytes.front() ^= std::byte{0x80};
  bytes.back() ^= std::byte{0x80};
  CHECK(kMine.check(FileOffset(100), bytes, kNow)->offset == FileOffset(149));
  CHECK(kMine.check(FileOffset(100), bytes, kNow)->size == 1);
}

TEST_CASE("hold pattern: comparison with a snapshot finds the first change", "[hold]") {
  const Bytes before(300, std::byte{1});
  Bytes now = before;
  CHECK_FALSE(compare(FileOffset(10), before, now, HolderTag{}, Generation{}));
  now[299] = std::byte{2};
  now[70] = std::byte{3};
  const auto foreign = compare(FileOffset(10), before, now, HolderTag{}, Generation{});
  REQUIRE(foreign);
  CHECK(foreign->offset == FileOffset(80));
  CHECK(hex(std::span(foreign->expected).first(2)) == "01 01");
  CHECK(hex(std::span(foreign->found).first(2)) == "03 01");
  CHECK_FALSE(compare(FileOffset(10), {}, {}, HolderTag{}, Generation{}));
}

TEST_CASE("hold pattern: two holders never share an identity", "[hold]") {
  CHECK_FALSE(Pattern::random().holder() == Pattern::random().holder());
}

}  // namespace daxfs::hold
