// What the filesystem tells the kernel without having been asked. Implemented by fuse_ops/ with
// FUSE notifications.
#pragma once

#include <functional>

#include "blockmap/units.h"
#include "lease/requests.h"

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
  // Who polls this open file is to look again.
  virtual void wake_poller(HolderId holder) = 0;
};

}  // namespace daxfs
