// The lock that keeps a pool to one user at a time.
#pragma once

#include <string>

#include "base/result.h"

namespace daxfs {

// umount(8) returns before the daemon has finished: the next process that opens the pool waits for
// it, and says so.
inline constexpr double kFormerUserSeconds = 30;
inline constexpr char kFormerUserText[] =
    "still in use, waiting up to 30 s for its former daemon to finish";

// Takes an exclusive flock on an open pool (read-only users as well: what they read must not change
// under them). It belongs to the open file description: forked children keep it, and it is gone
// when the last process that has it exits. Waits up to `timeout_seconds` for another user to
// finish, calling `on_wait` once if that takes a second, and gives up then if the pool is
// mounted: nobody knows for how long. EBUSY as a Problem that names the other user where it is
// known.
Outcome<void> lock_pool(int fd, const std::string& path, double timeout_seconds,
                        void (*on_wait)(const std::string& path));

}  // namespace daxfs
