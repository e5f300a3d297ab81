#include "lease/fences.h"

#include <iterator>

#include "base/require.h"

namespace daxfs {
void Fences::raise(Arrival arrival, const Fence& fence) {
  // One that was interrupted has left its fence to its repetition, and finds it if it asks again.
  const auto [it, fresh] = fences_.insert({{fence.inode, arrival}, fence.range});
  DAXFS_REQUIRE(fresh || it->second == fence.range,
                "request {} has another fence in inode {} already", arrival, fence.inode.value);
}

void Fences::lift(Arrival arrival, const Fence& fence) { fences_.erase({fence.inode, arrival}); }

std::optional<Arrival> Fences::newest_before(Arrival arrival, const Fence& range) const {
  auto it = fences_.lower_bound({range.inode, arrival});
  while (it != fences_.begin()) {
    --it;
    if (it->first.first != range.inode) break;
    if (overlap(it->second, range.range)) return it->first.second;
  }
  return std::nullopt;
}

std::vector<Arrival> Fences::in(InodeNumber inode) const {
  return over({inode, {FileBlock(0), BlockCount(UINT64_MAX)}});
}

std::vector<Arrival> Fences::over(const Fence& range) const {
  std::vector<Arrival> result;
  for (auto it = fences_.lower_bound({range.inode, 0});
       it != fences_.end() && it->first.first == range.inode; ++it) {
    if (overlap(it->second, range.range)) result.push_back(it->first.second);
  }
  return result;
}

}  // namespace daxfs
