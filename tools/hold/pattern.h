// The pattern that a pin holder keeps in its mapping, so that any byte that is not its own shows.
//
// The pattern is a function of (holder, file offset, generation), in units of 64 bytes that start
// at multiples of 64 in the file:
//
//     | holder 8 | unit's file offset 8 | generation 8 | checksum of these 8 | filler 32 |
//
// A range may begin and end inside a unit: only the bytes within are written and checked. Since
// every byte is known in advance, none can be wrong unnoticed; the tag only serves to say where
// strange bytes came from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/units.h"

namespace daxfs::hold {

struct HolderTag {
  std::uint64_t value = 0;
  constexpr bool operator==(const HolderTag&) const = default;
};

// How often the whole range has been written; 0 stands for never.
struct Generation {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const Generation&) const = default;
  constexpr Generation next() const { return Generation{value + 1}; }
};

// Bytes that should not be there.
struct Foreign {
  FileOffset offset;     // of the first wrong byte
  std::size_t size = 0;  // how many bytes of the two below are valid
  std::array<std::byte, 16> expected{};
  std::array<std::byte, 16> found{};
  std::string attribution;  // whose they seem to be, for people
};

class Pattern {
 public:
  explicit Pattern(HolderTag holder) : holder_(holder) {}
  // A holder that no other process uses.
  static Pattern random();

  HolderTag holder() const { return holder_; }

  // Puts the generation's bytes for [at, at + out.size()) of the file into `out`.
  void fill(FileOffset at, std::span<std::byte> out, Generation generation) const;

  // The first deviation from what fill() would have put there.
  std::optional<Foreign> check(FileOffset at, std::span<const std::byte> found,
                               Generation generation) const;

 private:
  HolderTag holder_;
};

// The first place where `found`, of the file from `at` on, differs from `expected`. Same sizes.
// `self` is whose bytes are no surprise, `generation` which of them belong here.
std::optional<Foreign> compare(FileOffset at, std::span<const std::byte> expected,
                               std::span<const std::byte> found, HolderTag self,
                               Generation generation);

// "3f 00 a1": for messages.
std::string hex(std::span<const std::byte> bytes);

}  // namespace daxfs::hold
