#include "base/size_text.h"

#include "tests/unit/catch.h"

using namespace daxfs;

TEST_CASE("sizes are read", "[size_text]") {
  const auto size = [](std::string_view text) {
    const auto parsed = parse_size(text);
    INFO(text << ": " << (parsed ? "" : parsed.error().text));
    REQUIRE(parsed);
    return parsed->value;
  };
  CHECK(size("1") == 1);
  CHECK(size("4096") == 4096);
  CHECK(size("1K") == 1024);
  CHECK(size("1k") == 1024);
  CHECK(size("64M") == 64ull << 20);
  CHECK(size("64MiB") == 64ull << 20);
  CHECK(size("64mib") == 64ull << 20);
  CHECK(size("2G") == 2ull << 30);
  CHECK(size("3T") == 3ull << 40);
  CHECK(size("5PiB") == 5ull << 50);
  CHECK(size("007K") == 7 * 1024);
  CHECK(size("18446744073709551615") == ~0ull);
  CHECK(size("16383P") == 16383ull << 50);
}

TEST_CASE("what is no size is refused with a reason", "[size_text]") {
  const auto check = [](std::string_view text, std::string_view reason, int code = EINVAL) {
    const auto parsed = parse_size(text);
    INFO(text);
    REQUIRE_FALSE(parsed);
    INFO(parsed.error().text);
    CHECK(parsed.error().code == code);
    CHECK(parsed.error().text.find(reason) != std::string::npos);
    CHECK(parsed.error().text.find("\"" + std::string(text) + "\"") != std::string::npos);
    CHECK(parsed.error().text.find('\n') == std::string::npos);
  };
  check("", "empty");
  check("0", "zero");
  check("0G", "zero");
  check("-1", "negative");
  check("-1M", "negative");
  check("M", "not a number");
  check("x", "not a number");
  check("+1", "not a number");
  check(" 1", "not a number");
  check("1X", "unknown unit");
  check("1 M", "unknown unit");
  check("1M ", "unknown unit");
  check("1.5G", "unknown unit");
  check("1Mi", "unknown unit");
  check("1MiBs", "unknown unit");
  check("1iB", "unknown unit");
  check("1MM", "unknown unit");
  check("0x10", "unknown unit");
  check("1B", "unknown unit");
  check("1MB", "decimal");
  check("18446744073709551616", "too large", ERANGE);
  check("16384P", "too large", ERANGE);
  check("99999999999999999999999G", "too large", ERANGE);
  check(std::string_view("1\0M", 3), "unknown unit");
}

TEST_CASE("sizes are written", "[size_text]") {
  const auto text = [](std::uint64_t n) { return format_size(ByteCount(n)); };
  CHECK(text(0) == "0 B");
  CHECK(text(1023) == "1023 B");
  CHECK(text(1024) == "1 KiB");
  CHECK(text(1536) == "1.5 KiB");
  CHECK(text(64ull << 20) == "64 MiB");
  CHECK(text((1ull << 20) - 1) == "1 MiB");
  CHECK(text((1ull << 20) - 1024 * 60) == "964 KiB");
  CHECK(text(3ull << 29) == "1.5 GiB");
  CHECK(text(1ull << 60) == "1024 PiB");
  CHECK(text(~0ull) == "16384 PiB");
}

TEST_CASE("a written size without decimals is read back", "[size_text]") {
  for (const std::uint64_t n : {1ull << 10, 4ull << 20, 1000ull << 30, 5ull << 40, 1ull << 60}) {
    std::string text = format_size(ByteCount(n));
    text.erase(text.find(' '), 1);
    CHECK(parse_size(text).value().value == n);
  }
}
