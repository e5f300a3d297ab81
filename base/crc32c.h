// CRC32C (Castagnoli), by the CPU's instruction where there is one, else by a table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace daxfs {

// Continues `seed` (0 to begin) over the data. Thread-safe.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed = 0);
// The same without special instructions (what crc32c() falls back to).
std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t seed = 0);

// Checksums as they are stored: never 0, so that zeroed media never looks valid.
inline std::uint32_t sealed_crc(std::span<const std::byte> data, std::uint32_t seed = 0) {
  const std::uint32_t crc = crc32c(data, seed);
  return crc == 0 ? 1 : crc;
}

// For records whose first `covered` bytes are checksummed with a member `crc` taken as zero.
template <class Record>
std::uint32_t record_crc(const Record& record, std::size_t covered = sizeof(Record)) {
  Record copy = record;
  copy.crc = 0;
  return sealed_crc(std::as_bytes(std::span(&copy, 1)).first(covered));
}
template <class Record>
void seal(Record& record, std::size_t covered = sizeof(Record)) {
  record.crc = record_crc(record, covered);
}
template <class Record>
bool is_sealed(const Record& record, std::size_t covered = sizeof(Record)) {
  return record.crc == record_crc(record, covered);
}

}  // namespace daxfs
