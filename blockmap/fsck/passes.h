// The passes of a check, in the order in which they build on each other. Each finds what is wrong
// and repairs it as far as Options allow, before the next one starts.
#pragma once

#include <string>

#include "base/result.h"
#include "blockmap/fsck/context.h"

namespace daxfs::fsck {

// 1. Both copies of the superblock; sets Context::super. A Problem if this is no pool, or one that
// cannot be worked on.
Outcome<void> check_superblocks(Context& context, const std::string& name);

// Writes the copies that differ from Context::super.
void restore_superblocks(Context& context);

// 2. Replays the journal. What it changed in the superblock (nothing should) is set right again.
void check_journal(Context& context);

// Before anything else is repaired: nobody copies into the pool any more (docs/direct-access.md).
void check_doorbells(Context& context);

// 3. Pool state and inode chunk index: where the inodes are. Sets the rest of the Context.
void check_inode_places(Context& context);

// 4. Every inode by itself: record, extents, extended attributes.
void check_inodes(Context& context);

// 5. Pin records: the blocks that hold them, then each record. Says what pins of living processes
// keep.
void check_pins(Context& context);
bool find_pin_blocks(Context& context);  // its first half; false if the second would make no sense

// 6. Blocks that several claim.
void check_shared_blocks(Context& context);

// 7. Directories, names, links: the tree. Precondition: rebuild() was successful.
void check_tree(Context& context);

}  // namespace daxfs::fsck
