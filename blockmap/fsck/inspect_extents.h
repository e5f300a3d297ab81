// The extents of one inode, slot by slot: which hold, and what has to change so that all do.
#pragma once

#include <vector>

#include "blockmap/fsck/inspect_inode.h"

namespace daxfs::fsck {

struct ExtentsPlan {
  std::vector<Extent> extents;
  std::vector<PoolBlock> chain;
  std::uint64_t head = 0;  // what InodeRecord::extent_block is to be
  std::vector<InodePlan::SlotFix> slots;
  std::vector<InodePlan::HeaderFix> headers;
  std::vector<Finding> findings;
};

// `head` is the inode's extent_block. only_evidence: the record is not believed, so that a head
// that leads nowhere is no finding.
ExtentsPlan inspect_extents(const Medium& medium, PoolRange data_area, InodeNumber inode,
                            PoolOffset place, std::uint64_t head, bool only_evidence);

}  // namespace daxfs::fsck
