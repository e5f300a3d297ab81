// Sets of blocks as ascending, disjoint ranges.
#pragma once

#include <span>
#include <vector>

#include "base/units.h"

namespace daxfs {

// Any ranges as such a set; neighbours become one.
std::vector<PoolRange> to_set(std::vector<PoolRange> ranges);

// Cuts `range` into what lies in the set and what does not; both are appended in ascending order.
void split(PoolRange range, std::span<const PoolRange> set, std::vector<PoolRange>& inside,
           std::vector<PoolRange>& outside);

}  // namespace daxfs
