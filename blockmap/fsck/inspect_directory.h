// One directory block: which entries are sound, and what has to change so that all are. Only reads.
#pragma once

#include <cstdint>
#include <vector>

#include "blockmap/fsck/inspect_inode.h"

namespace daxfs::fsck {

struct DirectoryBlockPlan {
  std::vector<unsigned> entries;  // the granules where they begin, corrected ones included
  std::vector<InodePlan::ByteFix> corrections;  // one flipped bit each
  std::uint64_t destroyed = 0;                  // granules to be zeroed, a bit each
};

DirectoryBlockPlan inspect_directory_block(const Medium& medium, InodeNumber directory,
                                           PoolBlock block);

// Whether the block proves to belong to that directory.
bool holds_sound_entry(const Medium& medium, InodeNumber directory, PoolBlock block);

}  // namespace daxfs::fsck
