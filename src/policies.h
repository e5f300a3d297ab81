// Whose policy decides: the mount's, which can be switched live, or the file's own.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/mutex.h"
#include "base/result.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/inode.h"
#include "src/mount.h"

namespace daxfs {

// Thread-safe; for what says `inode`, its lock is held as described. Its own lock comes before the
// gate's.
class Policies {
 public:
  Policies(const Mount& mount, Gate& gate, Callers& callers)
      : mount_(mount), gate_(gate), callers_(callers) {}

  // Switches the mount's settings: see change_policy(). EPERM unless the caller may.
  Outcome<void> set(std::string_view text, const Caller& caller);

  // The policy that the file has for itself. Lock held exclusively.
  std::optional<PinPolicy> of(Inode& inode) const REQUIRES(inode.lock);

  // --- the attribute user.daxfs.pin_policy, which is the file's own policy ---
  static bool is_policy(std::string_view attribute);
  // Whether the caller may give it this value, or take it away (none). EPERM unless the caller may
  // switch policies, EINVAL for what is no policy.
  Status check(const Inode& inode, std::optional<std::string_view> value,
               const Caller& caller) const;
  // It has changed: what waits for the file is judged anew. `path`: of the file, for messages. Lock
  // held exclusively.
  void changed(Inode& inode, const std::string& path) REQUIRES(inode.lock);

 private:
  const Mount& mount_;
  Gate& gate_;
  Callers& callers_;
  Mutex mutex_;  // changes of the mount's, one at a time
};

}  // namespace daxfs
