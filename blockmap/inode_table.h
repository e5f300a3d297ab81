// Inode records: where they lie, which are free, reading and staging them.
//
// Chunks of 1024 inodes are initialised (zeroed) when first needed: first those of the region that
// mkfs set aside, then chunks allocated from the data area and listed in the chunk index.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// Thread-safe, as far as no two threads stage the same inode (its lock sees to that).
class InodeTable {
 public:
  // `state` is the pool state as read at mount; the table owns its inode_chunks and inode_index
  // from here on and rewrites it (through the journal) when it grows.
  InodeTable(Medium& medium, Journal& journal, Allocator& allocator, const pmem::Superblock& super,
             const pmem::PoolState& state);

  // Reads the chunk index. EUCLEAN with text if it is damaged. Index and chunk blocks in the data
  // area are appended to `used`.
  Outcome<void> open(std::vector<PoolRange>& used);

  // Inode numbers are 1 .. capacity(). Number 1 is the root.
  std::uint64_t capacity() const;
  bool valid(InodeNumber inode) const;
  // Where the InodeSlot lies. Precondition: valid(inode).
  PoolOffset slot(InodeNumber inode) const;

  // The record, its checksum verified (EUCLEAN); ENOENT for a free slot or an invalid number.
  Result<pmem::InodeRecord> load(InodeNumber inode) const;
  // Seals the record and stages it (128 bytes).
  void stage(Transaction& tx, InodeNumber inode, pmem::InodeRecord& record) const;

  // Reserves a free slot (DRAM only; crash-safe because its mode stays 0 until the caller commits).
  // Initialises a further chunk when all are full. ENOSPC.
  Result<InodeNumber> allocate();
  // The generation that the next owner of a slot gets: counted up, from a beginning that differs
  // from pool to pool. Never 0.
  std::uint32_t next_generation(InodeNumber inode) const;
  // Stages an empty slot: record with mode 0 and the old generation, all inline extents zero.
  void stage_free(Transaction& tx, InodeNumber inode, const pmem::InodeRecord& record) const;
  // The slot may be handed out again (after stage_free was committed, or instead of using
  // allocate()).
  void release(InodeNumber inode);
  // Mount-time rebuild: says that a slot is in use.
  void mark_used(InodeNumber inode);

  std::uint64_t used() const;

  // --- checking while it is in use ---
  // Whether the number is handed out.
  bool taken(InodeNumber inode) const;
  // What is wrong with the pool state or the chunk index on the medium. Else their blocks in the
  // data area are appended to `used`.
  Outcome<void> verify(std::vector<PoolRange>& used) const;

  // Rewrites flags of the pool state (kStateClean, mounts) through the journal.
  // `incompatible`: kPool* bits; as they are if not said.
  [[nodiscard]] Status set_state_flags(std::uint32_t flags, bool count_mount,
                                       std::optional<std::uint64_t> incompatible = {});
  // Makes older daemons refuse the pool from now on. Durable on return. EIO.
  [[nodiscard]] Status add_incompatible(std::uint64_t bits);

 private:
  Result<void> grow() REQUIRES(mutex_);
  // Allocates a chunk in the data area and stages its place in the chunk index.
  Result<void> add_index_chunk(Transaction& tx, pmem::PoolState& grown) REQUIRES(mutex_);

  Medium& medium_;
  Journal& journal_;
  Allocator& allocator_;
  const pmem::Superblock super_;
  // Inodes that chunks exist for. Only grows; published after everything that slot() needs.
  std::atomic<std::uint64_t> capacity_{0};
  mutable Mutex mutex_;  // taken before the allocator's and the journal's
  pmem::PoolState state_ GUARDED_BY(mutex_);
  std::vector<PoolBlock> index_chunks_
      GUARDED_BY(mutex_);                    // first block of each chunk past the region
  PoolBlock index_tail_ GUARDED_BY(mutex_);  // the last block of the chunk index; 0: none
  std::vector<std::uint64_t> free_bits_ GUARDED_BY(mutex_);  // one bit an inode, 1 = free
  std::uint64_t hint_ GUARDED_BY(mutex_) = 0;                // no free bit below this word
  std::uint64_t used_ GUARDED_BY(mutex_) = 0;
};

}  // namespace daxfs
