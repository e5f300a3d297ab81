// What the live page asks for: one JSON object about everything that goes on at a mount.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {

// As docs/live.md says; the pool in at most so many cells.
Outcome<std::string> live_report(const Mount& mount, std::size_t cells);

}  // namespace daxfs::ctl
