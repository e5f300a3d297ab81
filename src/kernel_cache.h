// What the filesystem tells the kernel by itself. fuse_ops/ implements it with FUSE notifications.
#pragma once

#include <cstdint>
#include <functional>

#include "base/units.h"
#include "lease/requests.h"

namespace daxfs {

// Thread-safe; never blocks the caller.
class KernelCache {
 public:
  virtual ~KernelCache() = default;
  // Attributes (size, times) changed without the kernel's doing.
  virtual void invalidate_attributes(InodeNumber inode) = 0;
  // Who waits: a write may have one of the kernel's places for requests in the background, which
  // are few.
  enum class Asker : std::uint8_t { write, other };
  // Cached pages, and attributes, are stale. Once they are dropped (and what was dirty of them is
  // written), another thread calls `done` (may be null) with true. Where dropping them could wait
  // for the caller, `done` is called at once, or later, with false: then they are dropped when
  // that is possible.
  using Dropped = std::function<void(bool)>;
  // May be null. Asked just before: the kernel is told that the file is at least so long (0: it
  // need not be), which it believes even if it takes no size from us.
  using End = std::function<std::uint64_t()>;
  virtual void invalidate_data(InodeNumber inode, Dropped done, Asker asker, End end) = 0;
  // A truncate of the inode begins to wait at the gate; it has ended. In between the kernel can
  // drop no dirty page of the inode, so that invalidate_data() calls `done` with false.
  virtual void truncate_waits(InodeNumber inode) = 0;
  virtual void truncate_ends(InodeNumber inode) = 0;
  // Wakes the programs that poll this open file.
  virtual void wake_poller(HolderId holder) = 0;
};

}  // namespace daxfs
