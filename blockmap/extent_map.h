// The extents of one inode: an ordered index in DRAM over unordered record slots on the medium.
//
// A change rewrites the slots of the extents that it touches, nothing else: punching one extent out
// of 100,000 costs one or two 32-byte records. Slots 0..3 live in the inode, further ones in a
// chain of extent blocks (format.h).
//
// Not thread-safe: the inode's lock guards it. Changes alter the DRAM index at once and stage their
// records in the caller's transaction, which must then be committed (or the filesystem stopped): so
// everything that can fail (reserve) comes first.
#pragma once

#include <absl/container/btree_map.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

struct Extent {
  FileBlock file;
  PoolBlock pool;
  BlockCount count;
  bool unwritten = false;

  constexpr bool operator==(const Extent&) const = default;
  constexpr FileBlock end() const { return file + count; }
};

class ExtentMap {
 public:
  // One run of a file: mapped (pool set) or a hole.
  struct Run {
    FileRange range;
    std::optional<PoolBlock> pool;
    bool unwritten = false;
  };

  // An empty map for a new inode. `slot` is where the inode's InodeSlot lies in the pool.
  ExtentMap(Medium& medium, Allocator& allocator, InodeNumber inode, PoolOffset slot);

  // Reads the slots of an existing inode. EUCLEAN for anything that does not hold together
  // (checksums, owner, overlaps, blocks outside [data_start, total_blocks - 1), loops in the
  // chain).
  static Result<ExtentMap> load(Medium& medium, Allocator& allocator, InodeNumber inode,
                                PoolOffset slot, PoolRange data_area);

  // --- questions ---
  // The run that begins at `at`, cut to `limit` blocks (limit > 0).
  Run run_at(FileBlock at, BlockCount limit) const;
  // Extents that overlap `range`, cut to it, in order.
  void for_each(FileRange range, const std::function<void(const Extent&)>& visit) const;
  // The first extent whose end lies behind `at` (uncut); nullopt if there is none.
  std::optional<Extent> first_from(FileBlock at) const;
  std::optional<Extent> last() const;
  std::size_t size() const { return extents_.size(); }
  BlockCount mapped() const { return mapped_; }
  // The pool blocks of extents in `range`, in file order.
  std::vector<PoolRange> physical(FileRange range) const;
  // Extent blocks of the chain (they belong to the inode, too).
  const std::vector<PoolBlock>& chain() const { return chain_; }

  // --- changes ---
  // Makes sure that `slots` further records can be placed. May allocate and initialise extent
  // blocks (durable before commit) and changes record.extent_block; the caller stages the record.
  // ENOSPC changes nothing.
  Status reserve(pmem::InodeRecord& record, std::size_t slots);
  // How many slots the calls below may need at most: insert 1, mark_written 2, remove 1, each per
  // call, whatever the length of the range. A call without them aborts the process.
  // For mark_written more exactly, before anything else of the transaction changes the map.
  std::size_t slots_to_write(FileRange range) const;
  // reserve() for mark_written of `range`, which cannot fail: where there is no space for the
  // records of an unwritten extent that is cut, the result goes on to one of its ends or to both
  // (as ext4's zeroout), so that what was preallocated can be written in a full pool. The caller
  // zeroes what of the result is unwritten and not written by itself, and marks all of it.
  FileRange reserve_to_write(pmem::InodeRecord& record, FileRange range);

  // Adds an extent over a hole; merges with neighbours where both run on. Preconditions: the range
  // is a hole, 0 < count < 2^32 (the allocator's runs are shorter).
  void insert(Transaction& tx, const Extent& extent);
  // Turns unwritten extents in `range` into written ones; they merge with written neighbours where
  // both run on, so that writing a preallocated file piece by piece makes no extent per piece.
  // Stages up to three records for each unwritten extent in `range`: callers cut the range to bound
  // that.
  void mark_written(Transaction& tx, FileRange range);
  // Unmaps up to `limit` extents of `range`, from its beginning, and appends the pool blocks taken
  // away to `removed`. Returns the file block up to which the range is now a hole (range.end() when
  // all is done).
  FileBlock remove(Transaction& tx, FileRange range, std::size_t limit,
                   std::vector<PoolRange>& removed);
  // With no extent left: gives up the whole chain (record.extent_block = 0). The blocks are
  // appended to `released`; the caller frees them after the commit.
  void release_chain(pmem::InodeRecord& record, std::vector<PoolRange>& released);

  // An upper bound of the journal bytes that one slot update stages.
  static constexpr std::size_t kStagedBytesPerSlot = 64;

 private:
  // With its key 24 bytes: a cached extent costs about 35 with the tree around it.
  struct Node {
    PoolBlock pool;
    std::uint32_t count = 0;
    std::uint32_t slot_and_flag = 0;  // slot << 1 | unwritten

    std::uint32_t slot() const { return slot_and_flag >> 1; }
    bool unwritten() const { return (slot_and_flag & 1) != 0; }
  };
  using Index = absl::btree_map<FileBlock, Node>;
  struct Slots;  // what load() found on the medium

  // Slot ids: 0..3 lie in the inode, 4 + 127 i .. in chain_[i].
  static constexpr std::uint32_t kMaxSlots = 1u << 31;
  static PoolOffset slot_offset(PoolOffset inode_slot, const std::vector<PoolBlock>& chain,
                                std::uint32_t slot);
  static Result<Slots> read_slots(const Medium& medium, InodeNumber inode, PoolOffset slot,
                                  PoolRange data_area);

  static Extent extent_at(Index::const_iterator it);
  static FileBlock end_of(const Index::value_type& extent);
  static Node make_node(const Extent& extent, std::uint32_t slot);
  Index::iterator first_behind(FileBlock at);
  Index::const_iterator first_behind(FileBlock at) const;
  std::uint32_t take_slot();
  void stage(Transaction& tx, Index::const_iterator it) const;
  void stage_empty(Transaction& tx, std::uint32_t slot);
  Index::iterator carve(Transaction& tx, Index::iterator it, FileRange part);
  bool would_merge_written(Index::iterator it) const;
  FileBlock start_of_unwritten(FileBlock at) const;
  FileBlock end_of_unwritten(FileBlock at) const;

  Medium* medium_;
  Allocator* allocator_;
  InodeNumber inode_;
  PoolOffset slot_;
  Index extents_;
  BlockCount mapped_;
  std::vector<PoolBlock> chain_;           // oldest first (the medium links newest first)
  std::vector<std::uint32_t> free_slots_;  // the lowest is at the back, as far as that is cheap
};

}  // namespace daxfs
