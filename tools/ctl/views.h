// What each of daxfsctl's commands shows. (ctl_events.h has the one that goes on.)
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace daxfs::ctl {

Outcome<void> show_status(const std::string& path, bool json);
Outcome<void> show_policy(const std::string& path, bool json);
// Then shows what is in force.
Outcome<void> set_policy(const std::string& path, const std::string& settings, bool json);
// Ends a pin of a former mount whose process cannot be seen.
Outcome<void> release(const std::string& path, std::uint64_t pin);
Outcome<void> show_pins(const std::string& path, bool json);
Outcome<void> show_leases(const std::string& path, bool json);
Outcome<void> show_attached(const std::string& path, bool json);
Outcome<void> show_limbo(const std::string& path, bool json);
Outcome<void> show_extents(const std::string& path, bool json);

}  // namespace daxfs::ctl
