// Which blocks of the pool somebody owns, as found by a scan. Lives only while a pool is opened or
// checked.
#pragma once

#include <absl/functional/function_ref.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/units.h"

namespace daxfs {

// mark() is thread-safe; the rest expects that nobody marks. Parts that nothing was marked in cost
// neither memory nor time, so that a near-empty pool of any size is scanned at once.
class BlockBitmap {
 public:
  explicit BlockBitmap(BlockCount blocks);  // std::bad_alloc
  ~BlockBitmap();
  BlockBitmap(const BlockBitmap&) = delete;
  BlockBitmap& operator=(const BlockBitmap&) = delete;

  // Marks a range within the pool. Returns the first block of it that was marked before.
  std::optional<PoolBlock> mark(PoolRange range);
  // The first block in [at, end) whose mark is `set`, else `end`.
  std::uint64_t find(std::uint64_t at, std::uint64_t end, bool set) const;
  // Unmarks everything. Cannot fail.
  void clear();
  // Unmarked runs within `area`, in ascending order.
  void for_each_clear(PoolRange area, absl::FunctionRef<void(PoolRange)> visit) const;

 private:
  static constexpr std::uint64_t kPageBlocks = kBlockSize * 8;  // blocks per page of the bitmap

  std::uint64_t* words_;
  std::size_t bytes_;
  std::vector<std::atomic<bool>> touched_;  // by page of the bitmap
};

}  // namespace daxfs
