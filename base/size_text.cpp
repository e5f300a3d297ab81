#include "base/size_text.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <limits>

namespace daxfs {
namespace {

constexpr std::string_view kSuffixes = "KMGTP";

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

Outcome<ByteCount> parse_size(std::string_view text) {
  const auto refuse = [&](int code, std::string_view reason) {
    return problem(code, fmt::format("size \"{}\": {}", text, reason));
  };
  constexpr std::string_view kTooLarge = "too large";

  if (text.empty()) return refuse(EINVAL, "is empty; say for instance 64M or 2G");
  if (text.front() == '-') return refuse(EINVAL, "must not be negative");
  std::uint64_t number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) return refuse(ERANGE, kTooLarge);
  if (error != std::errc{}) {
    return refuse(EINVAL, "is not a number; say for instance 64M or 2G");
  }

  const std::string suffix = upper(text.substr(static_cast<std::size_t>(rest - text.data())));
  unsigned shift = 0;
  if (!suffix.empty()) {
    const std::size_t power = kSuffixes.find(suffix.front());
    const std::string_view tail = std::string_view(suffix).substr(1);
    if (power == std::string_view::npos || (!tail.empty() && tail != "IB")) {
      if (power != std::string_view::npos && tail == "B") {
        return refuse(EINVAL,
                      fmt::format("decimal units are not supported; say {0} or {0}iB (binary)",
                                  suffix.front()));
      }
      return refuse(EINVAL, "has an unknown unit; there are K, M, G, T and P (or KiB, MiB, ...)");
    }
    shift = 10 * (static_cast<unsigned>(power) + 1);
  }
  if (number == 0) return refuse(EINVAL, "must not be zero");
  if (number > std::numeric_limits<std::uint64_t>::max() >> shift) return refuse(ERANGE, kTooLarge);
  return ByteCount(number << shift);
}

std::string format_size(ByteCount size) {
  unsigned shift = 0;
  std::size_t unit = 0;  // into kSuffixes, from 1
  std::uint64_t tenths = 0;
  const auto rounded = [&] {
    const std::uint64_t whole = size.value >> shift;
    const std::uint64_t rest = size.value - (whole << shift);
    // Cut to 10 bits first: rest times ten could overflow.
    const std::uint64_t part = rest >> (shift - 10);
    return whole * 10 + (part * 10 + 512) / 1024;
  };
  if (size.value < 1024) return fmt::format("{} B", size.value);
  do {
    shift += 10;
    ++unit;
    tenths = rounded();
  } while (tenths >= 10240 && unit < kSuffixes.size());
  const char suffix = kSuffixes[unit - 1];
  if (tenths % 10 == 0) return fmt::format("{} {}iB", tenths / 10, suffix);
  return fmt::format("{}.{} {}iB", tenths / 10, tenths % 10, suffix);
}

}  // namespace daxfs
