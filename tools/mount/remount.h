// mount -o remount: read-only, read-write, other policies, more restrictions.
#pragma once

#include <string>

#include "base/result.h"
#include "src/options.h"

namespace daxfs {

// All that `options` says, or nothing. EBUSY: files are open for writing, or write pins held;
// EINVAL: it says something that cannot be changed.
Outcome<void> remount(const std::string& pool, const std::string& mountpoint,
                      const MountOptions& options);

}  // namespace daxfs
