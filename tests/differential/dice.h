// Chance that a number repeats: the same seed throws the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace daxfs::differential {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {  // splitmix64
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
  }
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
  bool one_in(std::uint64_t count) { return below(count) == 0; }
  template <typename T, std::size_t n>
  T& of(std::array<T, n>& choices) {
    return choices[below(n)];
  }
  template <typename T, std::size_t n>
  const T& of(const std::array<T, n>& choices) {
    return choices[below(n)];
  }
  template <typename T, std::size_t n>
  const T& of(const T (&choices)[n]) {
    return choices[below(n)];
  }

 private:
  std::uint64_t state_;
};

}  // namespace daxfs::differential
