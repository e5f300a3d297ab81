#include "blockmap/volume/recover_inodes.h"

#include <fmt/format.h>

#include "base/block_ranges.h"
#include "blockmap/volume/detach.h"

namespace daxfs {
namespace {

Outcome<void> finish(Volume& volume, InodeNumber inode, bool orphan, PinnedSpace& pins) {
  const auto failed = [&](Errno error, const char* what) {
    return problem(error.code, fmt::format("inode {}: {}; run fsck.daxfs", inode.value, what));
  };
  auto record = volume.inodes().load(inode);
  if (!record) return failed(record.error(), "cannot be read");
  auto map = ExtentMap::load(volume.medium(), volume.allocator(), inode,
                             volume.inodes().slot(inode), volume.data_area());
  if (!map) return failed(map.error(), "its extents are damaged");

  std::vector<PoolRange> removed;
  Status committed;
  if (orphan) {
    committed = free_inode(volume, inode, *record, *map, removed);
  } else {
    const FileRange range{FileBlock(record->detach_begin),
                          BlockCount(record->detach_end - record->detach_begin)};
    if (const auto ready = prepare_detach(volume, inode, *record, *map, range); !ready) {
      return failed(ready.error(), "no space to finish an interrupted truncation");
    }
    committed = detach_extents(volume, inode, *record, *map, range, removed);
  }
  if (!committed) return failed(committed.error(), "cannot be written");
  std::vector<PoolRange> unpinned;
  for (const PoolRange& range : removed) split(range, pins.kept, pins.unowned, unpinned);
  for (const PoolRange& range : unpinned) {
    if (const auto freed = volume.allocator().free(range); !freed) {
      return failed(freed.error(), "owns blocks that are free");
    }
  }
  return {};
}

}  // namespace

Outcome<void> recover_inodes(Volume& volume, const UnfinishedInodes& unfinished,
                             PinnedSpace& pins) {
  for (const InodeNumber inode : unfinished.orphans) {
    if (auto done = finish(volume, inode, true, pins); !done) return done;
  }
  for (const InodeNumber inode : unfinished.detaches) {
    if (auto done = finish(volume, inode, false, pins); !done) return done;
  }
  return {};
}

}  // namespace daxfs
