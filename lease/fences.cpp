#include "lease/fences.h"

#include <iterator>

namespace daxfs {
namespace {

// A truncate's range may reach to the end of all numbers: no ends are computed here.
bool overlap(const FileRange& a, const FileRange& b) {
  if (a.empty() || b.empty()) return false;
  return a.start <= b.start ? b.start - a.start < a.count : a.start - b.start < b.count;
}

}  // namespace

void Fences::raise(Arrival arrival, const Fence& fence) {
  fences_.insert({{fence.inode, arrival}, fence.range});
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

}  // namespace daxfs
