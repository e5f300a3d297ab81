// How much of a long change fits into one transaction.
#pragma once

#include <cstddef>

#include "blockmap/extent_map.h"
#include "blockmap/journal.h"

namespace daxfs {

// Changes of extents that one commit holds beside the inode's own record, if each rewrites at most
// `slots_each` slots.
inline std::size_t changes_per_commit(const Journal& journal, std::size_t slots_each) {
  constexpr std::size_t kForInode = 1024;
  return (journal.capacity() - kForInode) / (slots_each * ExtentMap::kStagedBytesPerSlot);
}

}  // namespace daxfs
