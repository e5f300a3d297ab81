// What the filesystem tells the kernel about its caches. Implemented by fuse_ops/ with FUSE
// notifications.
#pragma once

#include <functional>

#include "blockmap/units.h"

namespace daxfs {

// Thread-safe; never blocks the caller.
class KernelCache {
 public:
  virtual ~KernelCache() = default;
  // Attributes (size, times) changed without the kernel's doing.
  virtual void invalidate_attributes(InodeNumber inode) = 0;
  // Cached pages, and attributes, are stale. `done` is called, on another thread, once they are
  // gone.
  virtual void invalidate_data(InodeNumber inode, std::function<void()> done) = 0;
};

}  // namespace daxfs
