// What `--stats` prints.
#pragma once

#include <string>

#include "tools/run/settings.h"

namespace daxfs::run {

std::string report(const Counters& counters);

}  // namespace daxfs::run
