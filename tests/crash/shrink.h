// Makes a failure as small as it gets: first fewer operations, then fewer cache lines.
#pragma once

#include <string>

#include "tests/crash/explorer.h"

namespace daxfs::testing {

// Tries at most `attempts` variations.
Failure shrink(Explorer& explorer, Failure failure, std::size_t attempts = 400);

// For people: what is wrong and where, and the command that shows it again.
std::string report(Explorer& explorer, const Failure& failure, const PlantedBug* bug);

}  // namespace daxfs::testing
