// Looking at the free space while others take from it and give to it.
#include <algorithm>

#include "base/require.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"

namespace daxfs {

bool Allocator::watch(BlockBitmap* moved) {
  const MutexLock lock(mutex_);
  if (moved != nullptr && moved_ != nullptr) return false;
  moved_ = moved;
  return true;
}

// The first free block from `at` on; `end` if there is none before it.
PoolBlock Allocator::next_free(PoolBlock at, PoolBlock end) const {
  if (!piece_from(at, BlockCount(1)).empty()) return at;
  if (const auto it = fragments_.lower_bound(at); it != fragments_.end()) {
    end = std::min(end, it->first);
  }
  if (const auto it = huge_.lower_bound(at.value / pmem::kHugeBlocks); it != huge_.end()) {
    end = std::min(end, PoolBlock(it->first * pmem::kHugeBlocks));
  }
  return end;
}

BlockCount Allocator::free_in(PoolRange area) const {
  BlockCount count;
  const MutexLock lock(mutex_);
  PoolBlock at = next_free(area.start, area.end());
  while (at < area.end()) {
    const BlockCount run = run_from(at, area.end() - at).count;
    count += run;
    at = next_free(at + run, area.end());
  }
  return count;
}

std::optional<PoolRange> Allocator::find_free(std::span<const PoolRange> runs) const {
  const MutexLock lock(mutex_);
  for (const PoolRange& run : runs) {
    if (run.empty() || !overlaps_free(run)) continue;
    const PoolBlock at = next_free(run.start, run.end());
    return run_from(at, run.end() - at);
  }
  return std::nullopt;
}

std::vector<PoolRange> Allocator::in_use_since_watch(PoolRange area) const {
  std::vector<PoolRange> out;
  const MutexLock lock(mutex_);
  DAXFS_REQUIRE(moved_ != nullptr, "nobody watches the free space");
  moved_->for_each_clear(area, [&](PoolRange still) {
    mutex_.assert_held();
    for (PoolBlock at = still.start; at < still.end();) {
      const PoolBlock free = next_free(at, still.end());
      if (free > at) out.push_back({at, free - at});
      at = free + run_from(free, still.end() - free).count;
    }
  });
  return out;
}

}  // namespace daxfs
