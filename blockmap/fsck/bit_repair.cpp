#include "blockmap/fsck/bit_repair.h"

#include <bit>

namespace daxfs::fsck {

// A CRC is linear: flipping a bit changes it by a value that depends only on how far the bit is
// from the end. Going from the last bit to the first, each step is one step of the shift register.
std::optional<std::uint64_t> find_flipped_bit(std::uint32_t difference, std::size_t bytes,
                                              std::size_t crc_at) {
  if (difference == 0) return std::nullopt;
  const std::uint64_t crc_bits = 8 * crc_at;
  if (std::has_single_bit(difference)) {
    return crc_bits + static_cast<unsigned>(std::countr_zero(difference));
  }
  constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli, reflected
  std::uint32_t effect = 1;
  for (std::uint64_t steps = 1; steps <= 8 * bytes; ++steps) {
    effect = (effect >> 1) ^ ((effect & 1) != 0 ? kPolynomial : 0);
    if (effect != difference) continue;
    const std::uint64_t bit = 8 * bytes - steps;
    const bool of_checksum = bit >= crc_bits && bit < crc_bits + 32;
    return of_checksum ? std::nullopt : std::optional(bit);
  }
  return std::nullopt;
}

}  // namespace daxfs::fsck
