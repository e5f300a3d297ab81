// Taking blocks away from inodes, in as many bounded transactions as it takes. Only what the caller
// decided already is done here: whether blocks may go is the gate's business, and so is what
// becomes of the data blocks afterwards (`removed`). Extent and attribute blocks go straight to the
// free space.
//
// The caller holds the inode's lock throughout.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/extent_map.h"
#include "blockmap/format.h"
#include "blockmap/volume/volume.h"

namespace daxfs {

// Everything from `at` on.
inline constexpr FileRange to_end(FileBlock at) { return {at, FileBlock(pmem::kDetachToEnd) - at}; }

// Makes sure that detach_extents() of this range cannot fail: a range within one extent leaves two
// pieces, and the second needs a record. Commits `record` by itself if that took a new extent
// block; so it has to be the record as it is on the medium, not yet the one that is to be. Holds as
// long as the inode's lock is held. ENOSPC changes nothing; EIO as from Journal::commit().
Status prepare_detach(Volume& volume, InodeNumber inode, pmem::InodeRecord& record, ExtentMap& map,
                      FileRange range);

// Unmaps `range` and commits `record`, in which the caller has set the new size and times; blocks,
// extent_block and the detach intent are kept here. Atomic with respect to a crash: if it takes
// several transactions, the first one commits the record with the range as an intent, which the
// next mount finishes. The pool blocks are appended to `removed`. Precondition: prepare_detach()
// succeeded, under the same hold of the lock. EIO as from Journal::commit(); the map has changed
// all the same.
[[nodiscard]] Status detach_extents(Volume& volume, InodeNumber inode, pmem::InodeRecord& record,
                                    ExtentMap& map, FileRange range,
                                    std::vector<PoolRange>& removed);

// What an inode leaves behind.
struct InodeRemains {
  std::vector<PoolRange> data;
  std::vector<PoolRange> metadata;  // extent and attribute blocks
};

// Stages the end of an inode with all that it owns: nothing but its slot leads there, so that
// emptying the slot takes everything away at once, however many extents there are. After the commit
// the caller hands `metadata` to free_metadata(), decides about `data`, and releases the number
// (InodeTable) when nobody knows it any more.
InodeRemains stage_end(Transaction& tx, Volume& volume, InodeNumber inode,
                       const pmem::InodeRecord& record, const ExtentMap& map);
void free_metadata(Volume& volume, std::span<const PoolRange> ranges);

// Frees an inode with all that it owns, in a transaction of its own. Its data blocks are appended
// to `removed`; the number may be handed out again on return. The map is empty afterwards. EIO as
// from Journal::commit().
[[nodiscard]] Status free_inode(Volume& volume, InodeNumber inode, const pmem::InodeRecord& record,
                                ExtentMap& map, std::vector<PoolRange>& removed);

}  // namespace daxfs
