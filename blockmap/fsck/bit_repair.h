// Finds the one flipped bit of a record by its CRC32C.
//
// Up to 5,243 bits, two valid records differ in at least six bits (beyond, in at least four): if
// one flipped bit explains a checksum, then that is what happened, or else at least three bits are
// wrong. For random garbage one flip explains it by chance in one of 2^32 / bits cases.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "base/crc32c.h"

namespace daxfs::fsck {

// Which one bit (8 * byte + bit) of a record is wrong, if that explains that the checksum in it and
// its right one differ by `difference` (their xor). The checksum covers `bytes` bytes, but not
// itself, at byte `crc_at`: there each wrong bit is one bit of the difference. Takes O(bytes).
std::optional<std::uint64_t> find_flipped_bit(std::uint32_t difference, std::size_t bytes,
                                              std::size_t crc_at);

// Corrects one flipped bit among the first `covered` bytes of a record whose checksum `crc_of`
// computes. False (and the record unchanged) if that does not explain the checksum.
template <class Record, class CrcOf>
bool correct_bit_by(Record& record, std::size_t covered, const CrcOf& crc_of) {
  const auto bit = find_flipped_bit(record.crc ^ crc_of(record), covered, offsetof(Record, crc));
  if (!bit) return false;
  Record corrected = record;
  reinterpret_cast<unsigned char*>(&corrected)[*bit / 8] ^=
      static_cast<unsigned char>(1u << (*bit % 8));
  if (corrected.crc != crc_of(corrected)) return false;
  record = corrected;
  return true;
}

template <class Record>
bool correct_bit(Record& record, std::size_t covered = sizeof(Record)) {
  return correct_bit_by(record, covered, [&](const Record& r) { return record_crc(r, covered); });
}

}  // namespace daxfs::fsck
