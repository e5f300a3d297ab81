// What each of daxfsctl's commands shows. (ctl_events.h has the one that goes on.)
#pragma once

#include <string>

#include "blockmap/result.h"

namespace daxfs::ctl {

Outcome<void> show_status(const std::string& path, bool json);
Outcome<void> show_policy(const std::string& path, bool json);
// Then shows what is in force.
Outcome<void> set_policy(const std::string& path, const std::string& settings, bool json);
Outcome<void> show_pins(const std::string& path, bool json);
Outcome<void> show_leases(const std::string& path, bool json);
Outcome<void> show_limbo(const std::string& path, bool json);
Outcome<void> show_extents(const std::string& path, bool json);

}  // namespace daxfs::ctl
