#include "lease/limbo.h"

#include <algorithm>
#include <iterator>

#include "base/pieces.h"
#include "base/require.h"

namespace daxfs {

void Limbo::add(PoolRange range, Time since) {
  if (range.empty()) return;
  auto it = pieces_.lower_bound(range.start);
  DAXFS_REQUIRE((it == pieces_.end() || it->first >= range.end()) &&
                    (it == pieces_.begin() ||
                     std::prev(it)->first + std::prev(it)->second.count <= range.start),
                "blocks [{}, {}) go to limbo, and some are there", range.start.value,
                range.end().value);
  total_ += range.count;
  if (it != pieces_.begin()) {
    const auto left = std::prev(it);
    if (end_of(*left) == range.start && left->second.since == since) {
      left->second.count += range.count;
      return;
    }
  }
  pieces_.insert(it, {range.start, Value{range.count, since}});
}

//  piece   |=====|          |=====|       |=====|      |=======|
//  range      |=====|    |=====|       |==========|      |==|
//  stays   |==|                |==|                     ||    |=|
void Limbo::release(PoolRange range, std::vector<PoolRange>& freed) {
  if (pieces_.empty() || range.empty()) return;
  auto it = first_ending_behind(pieces_, range.start, end_of);
  while (it != pieces_.end() && it->first < range.end()) {
    const PoolRange piece{it->first, it->second.count};
    const Value value = it->second;
    const PoolBlock start = std::max(piece.start, range.start);
    const PoolBlock end = std::min(piece.end(), range.end());
    freed.push_back({start, end - start});
    total_ -= end - start;
    if (piece.start < start) {
      it->second.count = start - piece.start;
      ++it;
    } else {
      it = pieces_.erase(it);
    }
    if (end < piece.end()) {
      pieces_.insert(it, {end, Value{piece.end() - end, value.since}});
      return;
    }
  }
}

bool Limbo::next(PoolBlock at, Piece& out) const {
  const auto it = first_ending_behind(pieces_, at, end_of);
  if (it == pieces_.end()) return false;
  const PoolBlock start = std::max(at, it->first);
  out = {{start, end_of(*it) - start}, it->second.since};
  return true;
}

}  // namespace daxfs
