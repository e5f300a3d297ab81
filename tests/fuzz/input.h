// A fuzzer's bytes as a row of choices. At the end of the bytes every choice is the first one, so
// that any input means something.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace daxfs::fuzz {

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : left_(bytes) {}

  bool empty() const { return left_.empty(); }
  std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
  bool flag() { return (byte() & 1) != 0; }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
  std::uint64_t u64() { return number(8); }

  // A number below the limit (0: any), from no more bytes than that takes: mutations of one choice
  // then leave the others alone.
  std::uint64_t below(std::uint64_t limit) {
    if (limit == 1) return 0;
    std::size_t bytes = 1;
    while (bytes < 8 && (limit == 0 || (limit - 1) >> (8 * bytes) != 0)) ++bytes;
    const std::uint64_t drawn = number(bytes);
    return limit == 0 ? drawn : drawn % limit;
  }

  template <class T, std::size_t N>
  const T& one_of(const T (&choices)[N]) {
    return choices[below(N)];
  }

  // At most `most` bytes, as many as the next one or two say.
  std::string text(std::size_t most) { return std::string(take(below(most + 1))); }
  std::string rest() { return std::string(take(left_.size())); }

 private:
  std::string_view take(std::size_t count) {
    const auto taken = left_.first(std::min(count, left_.size()));
    left_ = left_.subspan(taken.size());
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t out = 0;
    std::size_t shift = 0;
    for (const char c : take(bytes)) {
      out |= std::uint64_t{static_cast<std::uint8_t>(c)} << shift;
      shift += 8;
    }
    return out;
  }

  std::span<const std::uint8_t> left_;
};

}  // namespace daxfs::fuzz
