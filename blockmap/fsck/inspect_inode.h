// One inode: what is wrong with it, and the plan that repairs it. Only reads, so that it serves a
// mounted volume as well (under the inode's lock).
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "base/units.h"
#include "blockmap/extent_map.h"
#include "blockmap/format.h"
#include "blockmap/fsck/context.h"
#include "blockmap/fsck/finding.h"
#include "blockmap/fsck/inspect_xattrs.h"
#include "blockmap/medium/medium.h"

namespace daxfs::fsck {

// How an inode is to be. Without findings it is so already.
struct InodePlan {
  bool in_use = false;
  pmem::InodeRecord record{};
  std::vector<Extent> extents;   // in the order of the file
  std::vector<PoolBlock> chain;  // extent blocks, newest first

  std::vector<Finding> findings;
  // The changes. Each is good on its own, the record comes last.
  struct SlotFix {
    PoolOffset at;
    pmem::ExtentRecord record;
  };
  struct HeaderFix {
    PoolBlock block;
    std::array<std::byte, offsetof(pmem::ExtentBlock, slots)> header;
  };
  struct ByteFix {
    PoolOffset at;
    std::byte value;
  };
  std::vector<SlotFix> slots;
  std::vector<HeaderFix> headers;
  std::vector<XattrsPlan::Fix> xattrs;
  bool record_changed = false;
  bool empty_slot = false;  // with the record, no extent slot stays
};

InodePlan inspect_inode(const Medium& medium, PoolRange data_area, InodeNumber inode,
                        PoolOffset place);

// Commits the changes of a plan. Needs the journal only.
void apply(Context& context, const InodePlan& plan, PoolOffset place);

}  // namespace daxfs::fsck
