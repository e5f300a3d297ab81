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
  // Cached pages, and attributes, are stale. `done` (or null) is called, on another thread, once
  // they are gone; or at once, where waiting for that could wait for the caller.
  virtual void invalidate_data(InodeNumber inode, std::function<void()> done) = 0;
  // A truncate of the inode waits at the gate; it has ended. In between nothing of the inode that
  // is dirty can be dropped, and `done` of it is called at once.
  virtual void truncate_waits(InodeNumber inode) = 0;
  virtual void truncate_ends(InodeNumber inode) = 0;
  // Who polls this open file is to look again.
  virtual void wake_poller(HolderId holder) = 0;
};

}  // namespace daxfs
