// What `mount -o remount,ro` and `rw` change while the filesystem is mounted.
//
// The kernel lets nobody write through a mount that it has made read-only, and does not tell the
// daemon. Three things go past it: access times, which are the daemon's; write pins, whose blocks
// a device may change at any time; and who copies by itself beyond the close of its descriptor.
#pragma once

#include "base/result.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/direct_access.h"
#include "src/health.h"
#include "src/mount.h"

namespace daxfs {

// Thread-safe.
class Remount {
 public:
  Remount(const Mount& mount, Health& health, const Gate& gate, const Callers& callers,
          DirectAccess& direct)
      : mount_(mount), health_(health), gate_(gate), callers_(callers), direct_(direct) {}

  // For read-only, the kernel has seen to it that no file is open for writing. EPERM unless the
  // caller may; EBUSY: there are write pins, of whomever, or doorbells whose descriptor is closed;
  // EROFS: read-only from the beginning, so that the pool is not even open for writing.
  Status set_read_only(bool read_only, const Caller& caller);

 private:
  bool has_write_pins() const;

  const Mount& mount_;
  Health& health_;
  const Gate& gate_;
  const Callers& callers_;
  DirectAccess& direct_;
};

}  // namespace daxfs
