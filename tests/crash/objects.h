// What lies at a place of the pool.
#pragma once

#include <cstdint>
#include <string>

#include "blockmap/format.h"
#include "blockmap/medium/medium.h"

namespace daxfs::testing {

// Equal for places in one object: a journal lane, an inode with its extent slots, a block.
std::uint64_t object_at(const pmem::Superblock& super, std::uint64_t offset);

// For people: "journal lane 0, byte 64". Looks at the medium to tell what a block of the data area
// is used for.
std::string name_of_place(const pmem::Superblock& super, const Medium& medium,
                          std::uint64_t offset);

inline bool in_journal(const pmem::Superblock& super, std::uint64_t offset) {
  const std::uint64_t start = super.journal_start * kBlockSize;
  return offset >= start && offset - start < std::uint64_t{super.journal_lanes} * super.lane_bytes;
}
inline bool in_inodes(const pmem::Superblock& super, std::uint64_t offset) {
  return offset >= super.inode_region_start * kBlockSize && offset < super.data_start * kBlockSize;
}
inline bool in_data(const pmem::Superblock& super, std::uint64_t offset) {
  return offset >= super.data_start * kBlockSize;
}

}  // namespace daxfs::testing
