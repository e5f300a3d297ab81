// Free space, in DRAM only: derived at mount from what inodes refer to, so that an allocation
// itself persists nothing (the extent record that names the blocks does).
//
// Alignment-aware, as WineFS (SOSP '21) shows that an ageing filesystem must be: whole free 2 MiB
// chunks are kept apart from fragments; small requests are served from fragments while there are
// any, large ones get aligned chunks.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/btree_set.h>

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/block_bitmap.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// Thread-safe. Memory is O(free fragments), nothing per free block.
class Allocator {
 public:
  Allocator() = default;  // for a medium that does not fail
  explicit Allocator(const Medium& medium) : medium_(&medium) {}

  // Gives a range that was in use (or, while mounting, not yet known) to the free space. A range
  // that overlaps free space is a bug in the caller or damage: returns EUCLEAN and changes nothing.
  // Once the medium has failed nothing is given back any more: what took the blocks from their file
  // may never have reached the medium, and the next mount may find them where they were.
  Status free(PoolRange range);

  // Replaces the whole free space: `free_runs` in ascending order (touching runs are merged). Much
  // faster than as many calls of free(). EUCLEAN if they overlap or are out of order; changes
  // nothing.
  Status rebuild(std::span<const PoolRange> free_runs);

  // `want` blocks in as few runs as possible, appended to `out`; all or nothing (ENOSPC). Tries to
  // begin at `goal` (pass PoolBlock(0) for "anywhere"), so that a growing file stays in one piece.
  // Requests of 2 MiB and more get 2 MiB-aligned chunks while there are any. No run has more than
  // kMaxRun blocks, so that one extent record can hold it.
  Status allocate(BlockCount want, PoolBlock goal, std::vector<PoolRange>& out);
  static constexpr BlockCount kMaxRun{1ull << 31};

  // One contiguous run (metadata). ENOSPC when no run is long enough.
  Result<PoolRange> allocate_run(BlockCount want);

  BlockCount free_blocks() const;
  // How much of an area is free.
  BlockCount free_in(PoolRange area) const;

  struct Shape {
    std::uint64_t fragments;    // free runs that lie within partly used 2 MiB chunks
    std::uint64_t huge_chunks;  // wholly free 2 MiB chunks
  };
  Shape shape() const;

  // Every free run in ascending order, neighbours merged (checks and reports).
  std::vector<PoolRange> snapshot() const;

  // --- checking while it is in use (allocator_watch.cpp) ---
  // From now on all that is handed out or comes back is marked in `moved` (null: no more). False if
  // somebody else watches already.
  bool watch(BlockBitmap* moved);
  // The first piece of these runs that is free.
  std::optional<PoolRange> find_free(std::span<const PoolRange> runs) const;
  // What of `area` has been in use ever since watch(), ascending. Precondition: watched.
  std::vector<PoolRange> in_use_since_watch(PoolRange area) const;

 private:
  bool overlaps_free(PoolRange range) const REQUIRES(mutex_);
  PoolRange piece_from(PoolBlock at, BlockCount limit) const REQUIRES(mutex_);
  PoolRange run_from(PoolBlock at, BlockCount limit) const REQUIRES(mutex_);
  PoolBlock next_free(PoolBlock at, PoolBlock end) const REQUIRES(mutex_);
  bool goal_is_good(PoolBlock goal, BlockCount want) const REQUIRES(mutex_);
  PoolBlock chunk_to_break(PoolBlock near) const REQUIRES(mutex_);
  std::optional<PoolRange> find_across(BlockCount want, PoolBlock from, PoolBlock end) const
      REQUIRES(mutex_);
  std::vector<PoolRange> runs() const REQUIRES(mutex_);
  void put(PoolRange range) REQUIRES(mutex_);
  void put_fragment(PoolRange range) REQUIRES(mutex_);
  void put_chunks(std::uint64_t first, std::uint64_t count) REQUIRES(mutex_);
  void take(PoolRange range) REQUIRES(mutex_);
  void take_across(PoolRange range) REQUIRES(mutex_);
  void link_fragment(PoolRange range) REQUIRES(mutex_);
  void unlink_fragment(PoolRange range) REQUIRES(mutex_);
  void link_chunks(std::uint64_t first, std::uint64_t count) REQUIRES(mutex_);
  void unlink_chunks(std::uint64_t first, std::uint64_t count) REQUIRES(mutex_);

  const Medium* const medium_ = nullptr;
  mutable Mutex mutex_;  // an innermost lock
  // A fragment lies within one chunk and is never all of it; fragments of one chunk do not touch.
  absl::btree_map<PoolBlock, BlockCount> fragments_ GUARDED_BY(mutex_);  // by place
  absl::btree_set<std::pair<BlockCount, PoolBlock>> fragments_by_length_
      GUARDED_BY(mutex_);  // best fit
  // Runs of wholly free chunks (chunk number = block / 512); runs do not touch.
  absl::btree_map<std::uint64_t, std::uint64_t> huge_
      GUARDED_BY(mutex_);  // first chunk -> number of chunks
  absl::btree_set<std::pair<std::uint64_t, std::uint64_t>> huge_by_length_ GUARDED_BY(mutex_);
  std::uint64_t huge_chunks_ GUARDED_BY(mutex_) = 0;
  BlockCount free_ GUARDED_BY(mutex_);
  // Runs across borders: where the last one was found, and a length that none has (as far as
  // known).
  static constexpr BlockCount kNoLength{~0ull};
  PoolBlock search_from_;
  BlockCount none_across_ = kNoLength;
  BlockBitmap* moved_ = nullptr;  // see watch()
};

}  // namespace daxfs
