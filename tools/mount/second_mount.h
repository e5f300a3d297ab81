// A pool that is mounted already and is mounted once more: the same mount is seen at both places,
// as with a disk.
#pragma once

#include <string>

#include "base/result.h"
#include "src/options.h"

namespace daxfs {

// EBUSY: `options` ask for what the first mount is not; EPERM: only root may.
Outcome<void> mount_again(const std::string& pool, const std::string& first,
                          const std::string& mountpoint, const MountOptions& options);

}  // namespace daxfs
