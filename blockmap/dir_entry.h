// What a single directory entry must look like on the medium.
#pragma once

#include <dirent.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/crc32c.h"
#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

constexpr unsigned granules_for(std::size_t name_length) {
  return static_cast<unsigned>(
      (sizeof(pmem::DirEntryHeader) + name_length + pmem::kGranuleBytes - 1) / pmem::kGranuleBytes);
}

inline std::uint32_t entry_crc(InodeNumber directory, pmem::DirEntryHeader header,
                               std::string_view name) {
  header.crc = 0;
  std::uint32_t crc = crc32c(std::as_bytes(std::span(&directory.value, 1)));
  crc = crc32c(std::as_bytes(std::span(&header, 1)), crc);
  return sealed_crc(std::as_bytes(std::span(name)), crc);
}

constexpr bool is_entry_type(std::uint8_t type) {
  switch (type) {
    case DT_FIFO:
    case DT_CHR:
    case DT_DIR:
    case DT_BLK:
    case DT_REG:
    case DT_LNK:
    case DT_SOCK:
      return true;
    default:
      return false;
  }
}

// st_mode's file type as a DT_* value.
constexpr std::uint8_t entry_type(std::uint16_t mode) {
  return static_cast<std::uint8_t>((mode & 0170000) >> 12);
}

inline bool is_entry_name(std::string_view name) {
  return name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

inline PoolOffset granule_offset(PoolBlock block, std::uint64_t granule) {
  return offset_of(block) + ByteCount(granule * pmem::kGranuleBytes);
}

// The name of the entry at `at`, as it lies in the pool.
inline std::string_view name_at(const Medium& medium, PoolOffset at) {
  const auto header = medium.load<pmem::DirEntryHeader>(at);
  return {reinterpret_cast<const char*>(medium.at(at + ByteCount(sizeof header))),
          header.name_length};
}

inline bool is_free(const pmem::DirEntryHeader& header) {
  static constexpr std::array<std::byte, sizeof header> kZero{};
  return std::memcmp(&header, kZero.data(), sizeof header) == 0;
}

// Whether `header` and `name` are a sound entry of `directory` that begins at this granule of its
// block.
inline bool is_sound_entry(InodeNumber directory, const pmem::DirEntryHeader& header,
                           std::string_view name, unsigned granule) {
  if (header.magic != pmem::DirEntryHeader::kMagic || header.name_length == 0 ||
      header.inode == 0 || header.granules != granules_for(header.name_length) ||
      granule + header.granules > pmem::kGranulesPerBlock || !is_entry_type(header.type)) {
    return false;
  }
  return name.size() == header.name_length && header.crc == entry_crc(directory, header, name) &&
         is_entry_name(name);
}

inline bool is_sound_entry(const Medium& medium, InodeNumber directory, PoolBlock block,
                           unsigned granule) {
  const PoolOffset at = granule_offset(block, granule);
  const auto header = medium.load<pmem::DirEntryHeader>(at);
  // The name of an entry in the last granule of the medium would lie behind its end.
  if (granule + granules_for(header.name_length) > pmem::kGranulesPerBlock) return false;
  return is_sound_entry(directory, header, name_at(medium, at), granule);
}

}  // namespace daxfs
