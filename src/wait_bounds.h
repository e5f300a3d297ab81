// How long a detach may wait at most, whatever the policy says, where it holds up those who have
// nothing to do with it.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <utility>

#include "lease/requests.h"

namespace daxfs {

// Not thread-safe. Two kinds of requests have a bound:
// - A rename keeps the kernel's locks of both directories while it waits, so that nobody can list
//   them. A user who is not trusted could keep a directory of others locked for ever. All renames
//   of such a user together may wait for `kRename`, and then none for `kPause`.
// - A request of a kernel thread (a loop device, an NFS server), or of nobody whom we know, cannot
//   be interrupted. The kernel complains of whoever waits for two minutes.
class WaitBounds {
 public:
  static constexpr std::chrono::seconds kRename{2};
  static constexpr std::chrono::seconds kPause{10};
  static constexpr std::chrono::seconds kUninterruptible{60};

  explicit WaitBounds(std::function<bool(uid_t)> is_trusted) : is_trusted_(std::move(is_trusted)) {}

  // By when a request that waits since then must have been answered.
  SteadyTime latest(const DetachRequest& request, SteadyTime since);

 private:
  SteadyTime latest_rename(uid_t user, SteadyTime since);

  const std::function<bool(uid_t)> is_trusted_;
  absl::flat_hash_map<uid_t, SteadyTime> renames_;  // since when this user's wait
};

}  // namespace daxfs
