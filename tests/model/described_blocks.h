// Blocks that say whose they are: a block read anywhere is all zeroes, or names the file and the
// place that it was written for. Bytes of somebody else are recognised for sure.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/units.h"

namespace daxfs::testing {

struct BlockIdentity {
  std::uint64_t inode = 0;
  std::uint64_t generation = 0;
  std::uint64_t block = 0;  // of the file

  constexpr bool operator==(const BlockIdentity&) const = default;
};

// Identity and version in front, and every further word computed from them.
class DescribedBlock {
 public:
  static std::string make(const BlockIdentity& identity, std::uint64_t version) {
    std::string out(kBlockSize, '\0');
    const std::array<std::uint64_t, 5> head{kMagic, identity.inode, identity.generation,
                                            identity.block, version};
    std::memcpy(out.data(), head.data(), sizeof head);
    for (std::size_t at = sizeof head; at < kBlockSize; at += 8) {
      const std::uint64_t word = word_at(identity, version, at);
      std::memcpy(out.data() + at, &word, sizeof word);
    }
    return out;
  }

  enum class Verdict : std::uint8_t { zeroes, own, foreign, torn };
  static Verdict judge(std::string_view bytes, const BlockIdentity& expected) {
    if (bytes.find_first_not_of('\0') == std::string_view::npos) return Verdict::zeroes;
    std::array<std::uint64_t, 5> head{};
    if (bytes.size() < sizeof head) return Verdict::torn;
    std::memcpy(head.data(), bytes.data(), sizeof head);
    if (head[0] != kMagic) return Verdict::torn;
    if (BlockIdentity{head[1], head[2], head[3]} != expected) return Verdict::foreign;
    return bytes == make(expected, head[4]) ? Verdict::own : Verdict::torn;
  }

 private:
  static constexpr std::uint64_t kMagic = 0x6461786673626c6b;  // "daxfsblk"
  static std::uint64_t word_at(const BlockIdentity& identity, std::uint64_t version,
                               std::size_t at) {
    std::uint64_t x = identity.inode * 0x9e3779b97f4a7c15 ^ identity.generation << 40 ^
                      identity.block * 0xbf58476d1ce4e5b9 ^ version * 0x94d049bb133111eb ^ at;
    x ^= x >> 29;
    return x * 0xff51afd7ed558ccd | 1;
  }
};

}  // namespace daxfs::testing
