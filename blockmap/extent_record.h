// What a single extent record and extent block must look like, wherever they are read.
#pragma once

#include <array>
#include <cstring>

#include "base/crc32c.h"
#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/layout.h"

namespace daxfs {

// File offsets are signed 64-bit numbers of bytes.
inline constexpr std::uint64_t kMaxFileBlocks = 1ull << (63 - kBlockShift);
inline constexpr FileRange kWholeFile{FileBlock(0), BlockCount(kMaxFileBlocks)};

inline bool is_free(const pmem::ExtentRecord& record) {
  static constexpr std::array<std::byte, sizeof record> kZero{};
  return std::memcmp(&record, kZero.data(), sizeof record) == 0;
}

inline bool is_plausible(const pmem::ExtentRecord& record, InodeNumber inode, PoolRange data_area) {
  return is_sealed(record) && record.inode_low == static_cast<std::uint32_t>(inode.value) &&
         record.count != 0 && (record.flags & ~pmem::kExtentUnwritten) == 0 &&
         record.file_block < kMaxFileBlocks && record.count <= kMaxFileBlocks - record.file_block &&
         lies_within(data_area, record.pool_block, record.count);
}

// The header only: each slot has a checksum of its own.
inline bool is_sound_header(const pmem::ExtentBlock& block, InodeNumber inode) {
  return block.magic == pmem::ExtentBlock::kMagic && block.inode == inode.value &&
         is_sealed(block, offsetof(pmem::ExtentBlock, slots));
}

}  // namespace daxfs
