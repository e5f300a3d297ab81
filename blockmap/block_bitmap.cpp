#include "blockmap/block_bitmap.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

namespace daxfs {

BlockBitmap::BlockBitmap(BlockCount blocks)
    : bytes_((blocks.value / kPageBlocks + 1) * kBlockSize), touched_(bytes_ / kBlockSize) {
  void* const memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  words_ = static_cast<std::uint64_t*>(memory);
}

BlockBitmap::~BlockBitmap() { ::munmap(words_, bytes_); }

std::optional<PoolBlock> BlockBitmap::mark(PoolRange range) {
  std::optional<PoolBlock> taken;
  const std::uint64_t end = range.end().value;
  for (std::uint64_t at = range.start.value; at < end;) {
    const std::uint64_t shift = at % 64;
    const std::uint64_t count = std::min<std::uint64_t>(end - at, 64 - shift);
    const std::uint64_t mask = (~0ull >> (64 - count)) << shift;
    std::atomic<bool>& touched = touched_[at / kPageBlocks];
    if (!touched.load(std::memory_order_relaxed)) touched.store(true, std::memory_order_relaxed);
    const std::uint64_t before =
        std::atomic_ref(words_[at / 64]).fetch_or(mask, std::memory_order_relaxed);
    if ((before & mask) != 0 && !taken) {
      const auto bit = static_cast<std::uint64_t>(std::countr_zero(before & mask));
      taken = PoolBlock(at - shift + bit);
    }
    at += count;
  }
  return taken;
}

std::uint64_t BlockBitmap::find(std::uint64_t at, std::uint64_t end, bool set) const {
  while (at < end) {
    if (set && at % kPageBlocks == 0 && !touched_[at / kPageBlocks]) {
      at += kPageBlocks;
      continue;
    }
    const std::uint64_t word = (set ? words_[at / 64] : ~words_[at / 64]) & (~0ull << (at % 64));
    if (word != 0) {
      return std::min(end, at / 64 * 64 + static_cast<std::uint64_t>(std::countr_zero(word)));
    }
    at = (at | 63) + 1;
  }
  return end;
}

void BlockBitmap::clear() {
  for (std::size_t page = 0; page < touched_.size(); ++page) {
    if (touched_[page].exchange(false)) {
      std::fill_n(words_ + page * (kPageBlocks / 64), kPageBlocks / 64, 0);
    }
  }
}

void BlockBitmap::for_each_clear(PoolRange area, absl::FunctionRef<void(PoolRange)> visit) const {
  const std::uint64_t end = area.end().value;
  for (std::uint64_t at = find(area.start.value, end, false); at < end;) {
    const std::uint64_t stop = find(at, end, true);
    visit({PoolBlock(at), BlockCount(stop - at)});
    at = find(stop, end, false);
  }
}

}  // namespace daxfs
