#include "src/extents.h"

#include <algorithm>
#include <shared_mutex>

#include "base/byte_range.h"

namespace daxfs {

Result<PinnedExtents> Extents::of_pin(OpenFile& file, PinId pin, std::uint64_t first,
                                      std::size_t limit) {
  const auto info = gate_.find_pin(file.holder, pin);
  if (!info) return fail(ENOENT);
  const auto blocks = gate_.pin_blocks(file.holder, pin);
  if (!blocks) return std::unexpected(blocks.error());
  PinnedExtents out{.extents = {}, .writable = info->write, .more = false};
  FileBlock at = block_of(info->offset);
  for (std::uint64_t i = 0; i < blocks->size(); ++i) {
    const PoolRange& run = (*blocks)[i];
    if (i >= first) {
      if (out.extents.size() == limit) {
        out.more = true;
        break;
      }
      out.extents.push_back(
          {offset_of(at), offset_of(run.start), bytes(run.count), false, most_pins(run)});
    }
    at += run.count;
  }
  return out;
}

PinCounts Extents::most_pins(PoolRange range) const {
  PinCounts most;
  gate_.counts(range, [&](PoolRange, PinCounts here) {
    most.long_term = std::max(most.long_term, here.long_term);
    most.short_term = std::max(most.short_term, here.short_term);
  });
  return most;
}

Result<PinnedExtents> Extents::of_range(OpenFile& file, FileOffset offset, ByteCount length,
                                        std::size_t limit) {
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (!file.readable) return fail(EBADF);
  if (!is_byte_range(offset, length)) return fail(EINVAL);
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return std::unexpected(loaded.error());
  const ReaderLock guard(inode.lock);
  return of_range_locked(inode, offset, length, limit);
}

Result<PinnedExtents> Extents::of_range_locked(Inode& inode, FileOffset offset, ByteCount length,
                                               std::size_t limit) {
  if (!is_byte_range(offset, length)) return fail(EINVAL);
  PinnedExtents out;
  const FileRange range = covering(offset, length);
  FileBlock at = range.start;
  while (const auto extent = inode.map().first_from(at)) {
    if (extent->file >= range.end()) break;
    if (out.extents.size() == limit) {
      out.more = true;
      break;
    }
    const FileBlock from = std::max(extent->file, range.start);
    const FileBlock to = std::min(extent->end(), range.end());
    const PoolRange pool{extent->pool + (from - extent->file), to - from};
    out.extents.push_back({offset_of(from), offset_of(pool.start), bytes(pool.count),
                           extent->unwritten, most_pins(pool)});
    at = extent->end();
  }
  return out;
}

}  // namespace daxfs
