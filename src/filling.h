// Blocks that come into a file: new ones for its holes, zeroes for what becomes visible.
//
// The inode's lock is held exclusively for all of it. Data is durable before the metadata that
// shows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/extent_map.h"
#include "blockmap/journal.h"
#include "lease/gate.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"

namespace daxfs {

// Changes of extents that one commit holds beside the inode's own record, if each rewrites at most
// `slots_each` slots.
std::size_t changes_per_commit(const Journal& journal, std::size_t slots_each);

// Runs of blocks that were allocated and belong to no file yet. What is left at the end goes back.
class NewBlocks {
 public:
  explicit NewBlocks(Allocator& allocator) : allocator_(allocator) {}
  ~NewBlocks();
  NewBlocks(const NewBlocks&) = delete;
  NewBlocks& operator=(const NewBlocks&) = delete;

  // ENOSPC: nothing was allocated. They should come behind `goal`.
  Status allocate(BlockCount count, PoolBlock goal);
  std::size_t runs() const { return runs_.size(); }
  std::span<const PoolRange> all() const { return runs_; }
  // For the holes of `range`, in order, until they run out: these are the file's then. `stop`:
  // where they have run out, or the end of the range.
  std::vector<Extent> fill(const ExtentMap& map, FileRange range, FileBlock& stop);
  // Takes back what fill() gave.
  void give_back(std::span<const Extent> extents);

 private:
  Allocator& allocator_;
  std::vector<PoolRange> runs_;
};

// Has no state of its own.
class Filling {
 public:
  Filling(const Mount& mount, Health& health, Gate& gate, Inodes& inodes)
      : mount_(mount), health_(health), gate_(gate), inodes_(inodes) {}

  // New blocks for the holes of `range`, unwritten or zeroed, all or nothing (ENOSPC). Commits, and
  // if there were holes, the last commit also makes the file at least `size` bytes long.
  // `spare_slots` more records can then be placed without fail.
  enum class Fill : std::uint8_t { unwritten, zeroed };
  Status fill_holes(Inode& inode, FileRange range, Fill fill, std::uint64_t size = 0,
                    std::size_t spare_slots = 0) REQUIRES(inode.lock);
  // Written, zeroed blocks for all of `range`, all or nothing (ENOSPC); `size` as in fill_holes().
  Status populate(Inode& inode, FileRange range, std::uint64_t size) REQUIRES(inode.lock);

  // Zeroes what is mapped and written of a byte range, in place; durable after the next fence.
  // Takes no block, so no pin is in the way.
  void zero_in_place(Inode& inode, FileOffset offset, ByteCount length) REQUIRES_SHARED(inode.lock);
  // Bytes behind the end of the file that an extension to `size` would show: zeroed before it does.
  // With cache=writeback the extension can be older than what a holder has stored there, so what is
  // pinned is left alone while the file is pinned for writing. It was zeroed by the next.
  void zero_behind_end(Inode& inode, std::uint64_t size) REQUIRES(inode.lock);
  // With cache=writeback: what the file's blocks have behind its end, up to `end`. When a truncate
  // has made it shorter, and before it is pinned for writing. Durable after the next fence.
  void clear_behind_end(Inode& inode, std::uint64_t end) REQUIRES(inode.lock);
  bool clears_behind_end() const { return mount_.options.cache == CacheMode::writeback; }
  // Commits size (if larger) and times. EIO.
  [[nodiscard]] Status grow_to(Inode& inode, std::uint64_t size) REQUIRES(inode.lock);

 private:
  [[nodiscard]] Status show_pieces(Inode& inode, Transaction& tx, std::span<const Extent> pieces,
                                   std::uint64_t size) REQUIRES(inode.lock);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  Inodes& inodes_;
};

}  // namespace daxfs
