// What each of daxfsctl's commands shows.
#pragma once

#include <string>

#include "blockmap/result.h"

namespace daxfs::ctl {

Outcome<void> show_status(const std::string& path, bool json);
Outcome<void> show_policy(const std::string& path, bool json);
Outcome<void> show_pins(const std::string& path, bool json);
Outcome<void> show_limbo(const std::string& path, bool json);
Outcome<void> show_extents(const std::string& path, bool json);

}  // namespace daxfs::ctl
