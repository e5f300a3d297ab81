// daxfsctl events: follows what happens at the gate.
#pragma once

#include <string>

#include "base/result.h"

namespace daxfs::ctl {

// Until SIGINT, SIGTERM or SIGHUP, until nobody reads standard output any more, or until the mount
// ends: all of these are a good end.
Outcome<void> show_events(const std::string& path, bool json);

}  // namespace daxfs::ctl
