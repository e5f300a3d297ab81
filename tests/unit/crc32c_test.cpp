#include "base/crc32c.h"

#include <array>
#include <random>
#include <string_view>
#include <vector>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

std::span<const std::byte> raw(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Bit by bit, from the definition.
std::uint32_t reference(std::span<const std::byte> data) {
  std::uint32_t crc = 0xffffffff;
  for (const std::byte b : data) {
    crc ^= std::to_integer<std::uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

struct Sample {
  std::uint32_t crc;
  std::uint32_t a;
  std::uint64_t b;
};

}  // namespace

TEST_CASE("crc32c matches published vectors", "[crc32c]") {
  CHECK(crc32c(raw("123456789")) == 0xe3069283);
  CHECK(crc32c_portable(raw("123456789")) == 0xe3069283);
  // RFC 3720, B.4
  std::array<std::byte, 32> data{};
  CHECK(crc32c(data) == 0x8a9136aa);
  data.fill(std::byte{0xff});
  CHECK(crc32c(data) == 0x62a8ab43);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  CHECK(crc32c(data) == 0x46dd794e);
  CHECK(crc32c({}) == 0);
  CHECK(crc32c({}, 77) == 77);
  CHECK(crc32c_portable({}, 77) == 77);
}

TEST_CASE("crc32c continues a seed, at any alignment and cut", "[crc32c]") {
  std::mt19937_64 random(42);
  std::vector<std::byte> data(700);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  for (int round = 0; round < 500; ++round) {
    const std::size_t begin = random() % data.size();
    const std::size_t length = random() % (data.size() - begin + 1);
    const auto part = std::span(data).subspan(begin, length);
    const std::size_t cut = random() % (length + 1);
    const std::uint32_t expected = reference(part);
    REQUIRE(crc32c(part) == expected);
    REQUIRE(crc32c_portable(part) == expected);
    REQUIRE(crc32c(part.subspan(cut), crc32c(part.first(cut))) == expected);
    REQUIRE(crc32c_portable(part.subspan(cut), crc32c(part.first(cut))) == expected);
  }
}

TEST_CASE("sealed records notice any change", "[crc32c]") {
  Sample sample{0, 7, 9};
  seal(sample);
  CHECK(sample.crc != 0);
  CHECK(is_sealed(sample));
  const Sample good = sample;
  for (std::size_t bit = 0; bit < sizeof sample * 8; ++bit) {
    sample = good;
    std::as_writable_bytes(std::span(&sample, 1))[bit / 8] ^= std::byte(1 << bit % 8);
    CHECK_FALSE(is_sealed(sample));
  }
  CHECK_FALSE(is_sealed(Sample{}));

  // Only what is covered counts.
  sample = good;
  seal(sample, 8);
  sample.b = 1;
  CHECK(is_sealed(sample, 8));
  sample.a = 1;
  CHECK_FALSE(is_sealed(sample, 8));
}
