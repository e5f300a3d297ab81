// The lock that keeps a pool to one user at a time.
#pragma once

#include <string>

#include "blockmap/result.h"

namespace daxfs {

// Takes an exclusive flock on an open pool (read-only users as well: what they read must not change
// under them). It belongs to the open file description: forked children keep it, and it is gone
// when the last process that has it exits. Waits up to `timeout_seconds` for another user to
// finish, calling `on_wait` once if it has to. EBUSY as a Problem that names the other user where
// it is known.
Outcome<void> lock_pool(int fd, const std::string& path, double timeout_seconds,
                        void (*on_wait)(const std::string& path));

}  // namespace daxfs
