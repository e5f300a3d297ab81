// Who claims which blocks of the data area. Nobody asks here whether that is right.
#pragma once

#include <absl/functional/function_ref.h>

#include <optional>
#include <string_view>

#include "blockmap/extent_map.h"
#include "blockmap/fsck/context.h"

namespace daxfs::fsck {

struct Claimant {
  InodeNumber inode;
  pmem::InodeRecord record;
  ExtentMap map;
};

// Nothing if the inode is not in use, or its extents do not hold together.
std::optional<Claimant> load_claimant(Context& context, InodeNumber inode);

// Every one that there is.
void for_each_claimant(Context& context, std::string_view phase,
                       absl::FunctionRef<void(Claimant&)> visit);

// Everything but pin records: what inodes have, and inode chunks and their index (which have no
// claimant).
void for_each_claim(Context& context, std::string_view phase,
                    absl::FunctionRef<void(PoolRange, const Claimant*)> visit);

}  // namespace daxfs::fsck
