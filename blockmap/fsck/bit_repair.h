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

#include "blockmap/crc32c.h"

namespace daxfs::fsck {

// Which bit (8 * byte + bit) of `bytes` bytes has to be flipped so that their checksum changes by
// `difference` (wrong xor right). Takes O(bytes).
std::optional<std::uint64_t> find_flipped_bit(std::uint32_t difference, std::size_t bytes);

// Corrects one flipped bit among the first `covered` bytes of a record whose checksum `crc_of`
// computes. False (and the record unchanged) if that does not explain the checksum.
template <class Record, class CrcOf>
bool correct_bit_by(Record& record, std::size_t covered, const CrcOf& crc_of) {
  const std::uint32_t difference = record.crc ^ crc_of(record);
  if (difference == 0) return false;
  if ((difference & (difference - 1)) == 0) {  // the checksum itself has the flipped bit
    record.crc ^= difference;
    return true;
  }
  const auto bit = find_flipped_bit(difference, covered);
  if (!bit) return false;
  Record corrected = record;
  reinterpret_cast<unsigned char*>(&corrected)[*bit / 8] ^=
      static_cast<unsigned char>(1u << (*bit % 8));
  // A bit of the checksum itself, which is not covered.
  if (corrected.crc != crc_of(corrected)) return false;
  record = corrected;
  return true;
}

template <class Record>
bool correct_bit(Record& record, std::size_t covered = sizeof(Record)) {
  return correct_bit_by(record, covered, [&](const Record& r) { return record_crc(r, covered); });
}

}  // namespace daxfs::fsck
