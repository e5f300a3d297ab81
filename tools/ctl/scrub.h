// daxfsctl scrub: runs the check of a mount, and shows what it finds.
#pragma once

#include <string>

#include "base/result.h"

namespace daxfs::ctl {

// Whether all is well.
Outcome<bool> scrub(const std::string& path, bool json);

}  // namespace daxfs::ctl
