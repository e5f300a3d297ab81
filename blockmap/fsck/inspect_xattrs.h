// The extended attributes of one inode, access control lists among them: what is wrong with them,
// and the plan that repairs it. Only reads.
#pragma once

#include <cstddef>
#include <vector>

#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/fsck/finding.h"
#include "blockmap/medium/medium.h"

namespace daxfs::fsck {

struct XattrsPlan {
  pmem::InodeRecord record{};  // as it is to be
  bool record_changed = false;
  std::vector<Finding> findings;
  // Changes in the run of attributes: one transaction, since one checksum covers all of it.
  struct Fix {
    PoolOffset at;
    std::vector<std::byte> bytes;
  };
  std::vector<Fix> fixes;
};

XattrsPlan inspect_xattrs(const Medium& medium, PoolRange data_area, InodeNumber inode,
                          const pmem::InodeRecord& record);

}  // namespace daxfs::fsck
