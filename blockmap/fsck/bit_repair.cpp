#include "blockmap/fsck/bit_repair.h"

namespace daxfs::fsck {

// A CRC is linear: flipping a bit changes it by a value that depends only on how far the bit is
// from the end. Going from the last bit to the first, each step is one step of the shift register.
std::optional<std::uint64_t> find_flipped_bit(std::uint32_t difference, std::size_t bytes) {
  constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli, reflected
  std::uint32_t effect = 1;
  for (std::uint64_t steps = 1; steps <= 8 * bytes; ++steps) {
    effect = (effect >> 1) ^ ((effect & 1) != 0 ? kPolynomial : 0);
    if (effect == difference) return 8 * bytes - steps;
  }
  return std::nullopt;
}

}  // namespace daxfs::fsck
