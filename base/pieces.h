// Finding one of many pieces that lie in order and do not overlap.
#pragma once

#include <algorithm>
#include <iterator>

namespace daxfs {

// In a map of pieces by where each begins: the first one that ends behind `at` (it may begin behind
// it, too). `end_of` tells from an element where its piece ends.
template <class Map, class Place, class EndOf>
auto first_ending_behind(Map& pieces, const Place& at, const EndOf& end_of) {
  const auto behind = pieces.upper_bound(at);
  if (behind != pieces.begin()) {
    if (const auto before = std::prev(behind); end_of(*before) > at) return before;
  }
  return behind;
}

// In a sorted range of pieces: the last one that begins at `at` or before. Precondition: there is
// one.
template <class Range, class Place, class BeginOf>
auto last_begun(const Range& pieces, const Place& at, const BeginOf& begin_of) {
  return std::prev(std::ranges::upper_bound(pieces, at, {}, begin_of));
}

}  // namespace daxfs
