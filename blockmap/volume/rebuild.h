// The scan at mount: every inode is checked, what it owns is marked, and the free space is the
// rest.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/block_bitmap.h"
#include "blockmap/format.h"
#include "blockmap/inode_table.h"
#include "blockmap/medium/medium.h"
#include "blockmap/volume/inode_walk.h"

namespace daxfs {

// What the scan found that needs work before the pool is used, in ascending order.
struct UnfinishedInodes {
  std::vector<InodeNumber> orphans;   // no name refers to them
  std::vector<InodeNumber> detaches;  // links > 0, but a detach was interrupted
};

// Blocks that pins of earlier mounts have to do with.
struct PinnedSpace {
  std::vector<PoolRange> records;  // hold pin records
  std::vector<PoolRange> kept;     // what survivors pinned; a set (see block_ranges.h)
  // Found by the scan, and by recover_inodes(): those of `kept` that nobody owns. Not free either.
  std::vector<PoolRange> unowned;
};

// Fills `inodes` (which are used) and the allocator's free space from the medium, with `threads`
// threads. Damage and doubly owned blocks are Problems.
Outcome<UnfinishedInodes> rebuild(Medium& medium, Allocator& allocator, InodeTable& inodes,
                                  PoolRange data_area, unsigned threads, PinnedSpace& pins);

}  // namespace daxfs
