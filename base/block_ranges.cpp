#include "base/block_ranges.h"

#include <algorithm>

namespace daxfs {

std::vector<PoolRange> to_set(std::vector<PoolRange> ranges) {
  std::ranges::sort(ranges);
  std::vector<PoolRange> set;
  for (const PoolRange& range : ranges) {
    if (range.empty()) continue;
    if (!set.empty() && range.start <= set.back().end()) {
      set.back().count = std::max(set.back().end(), range.end()) - set.back().start;
    } else {
      set.push_back(range);
    }
  }
  return set;
}

void split(PoolRange range, std::span<const PoolRange> set, std::vector<PoolRange>& inside,
           std::vector<PoolRange>& outside) {
  const auto append = [](std::vector<PoolRange>& to, PoolBlock begin, PoolBlock end) {
    if (begin < end) to.push_back({begin, end - begin});
  };
  PoolBlock at = range.start;
  for (auto member = std::ranges::upper_bound(set, at, {}, [](PoolRange r) { return r.end(); });
       member != set.end() && member->start < range.end(); ++member) {
    const PoolBlock begin = std::max(at, member->start);
    const PoolBlock end = std::min(range.end(), member->end());
    append(outside, at, begin);
    append(inside, begin, end);
    at = end;
  }
  append(outside, at, range.end());
}

}  // namespace daxfs
