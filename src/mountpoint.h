// Checks that precede a mount.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"

namespace daxfs {

// The absolute path of a directory that can be mounted on: it exists, is a directory, is no mount
// already, and is empty (unless `nonempty`).
Outcome<std::string> check_mountpoint(const std::string& path, bool nonempty);

// Where a daxfs mount of this pool is to be seen, if anywhere in this mount namespace.
std::optional<std::string> mounted_at(const std::string& pool);

}  // namespace daxfs
