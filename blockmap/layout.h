// Where things lie in a pool, derived from its superblock. All code that needs a place asks here,
// so that a further region is added once.
#pragma once

#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

inline constexpr PoolBlock kSuperblockA{0};
inline constexpr PoolBlock kStateBlock{1};

// Copy B lies in the last block of the medium.
inline PoolBlock superblock_b(const Medium& medium) { return PoolBlock(medium.blocks().value - 1); }

inline Journal::Geometry journal_geometry(const pmem::Superblock& super) {
  return {offset_of(PoolBlock(super.journal_start)), super.journal_lanes, super.lane_bytes};
}

// Inode chunks that mkfs set aside.
inline PoolRange inode_region(const pmem::Superblock& super) {
  return {PoolBlock(super.inode_region_start),
          BlockCount(super.inode_region_chunks * pmem::kChunkBlocks)};
}

// Where extents and everything else that is allocated may lie.
inline PoolRange data_area(const pmem::Superblock& super) {
  return {PoolBlock(super.data_start), BlockCount(super.total_blocks - 1 - super.data_start)};
}

// Numbers from the medium: any value may come.
constexpr bool lies_within(PoolRange area, std::uint64_t start, std::uint64_t count) {
  return start >= area.start.value && start < area.end().value && count <= area.end().value - start;
}

// A journal lane holds any change that cannot be split: the largest one is a whole block of the
// inode chunk index, which fsck.daxfs writes anew, with the headers of lane and record. A few KiB
// are left for others (rename takes 2 KiB, 64 blocks that get a copy 4 KiB). Longer work is split
// by the capacity of the lane. mkfs.daxfs makes 16 KiB and more.
inline constexpr std::uint32_t kMinLaneBytes = 8192;

// What is impossible in the geometry of a superblock, for a message; nullptr if nothing is.
const char* geometry_damage(const pmem::Superblock& super);

}  // namespace daxfs
