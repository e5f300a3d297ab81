#include "lease/counted_ranges.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "base/pieces.h"
#include "base/require.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kMaxBlocks = std::numeric_limits<std::uint32_t>::max();

}  // namespace

CountedRanges::Segments::iterator CountedRanges::first_ending_after(PoolBlock block) {
  return first_ending_behind(segments_, block, end_of);
}

CountedRanges::Cursor CountedRanges::from(PoolBlock block) const {
  return {first_ending_behind(segments_, block, end_of), segments_.end()};
}

// Precondition: nothing of `gap` is covered, and `next` is the segment behind it.
void CountedRanges::insert(Segments::iterator next, PoolRange gap, std::uint64_t owner) {
  DAXFS_REQUIRE(next == segments_.end() || next->first >= gap.end(),
                "pins of blocks [{}, {}): block {} is counted already", gap.start.value,
                gap.end().value, next->first.value);
  while (!gap.empty()) {
    const std::uint64_t blocks = std::min(gap.count.value, kMaxBlocks);
    next = std::next(
        segments_.insert(next, {gap.start, Segment{static_cast<std::uint32_t>(blocks), 1, owner}}));
    gap = {gap.start + BlockCount(blocks), gap.count - BlockCount(blocks)};
  }
}

void CountedRanges::split_at(PoolBlock border) {
  const auto it = first_ending_after(border);
  if (it == segments_.end() || it->first >= border) return;
  Segment right = it->second;
  const std::uint64_t left = (border - it->first).value;
  right.blocks -= static_cast<std::uint32_t>(left);
  it->second.blocks = static_cast<std::uint32_t>(left);
  segments_.insert({border, right});
}

void CountedRanges::merge_at(PoolBlock border) {
  const auto right = segments_.find(border);
  if (right == segments_.end() || right == segments_.begin()) return;
  const auto left = std::prev(right);
  if (end_of(*left) != border || left->second.pins != right->second.pins ||
      left->second.owners != right->second.owners ||
      std::uint64_t{left->second.blocks} + right->second.blocks > kMaxBlocks) {
    return;
  }
  left->second.blocks += right->second.blocks;
  segments_.erase(right);
}

void CountedRanges::add(PoolRange range, std::uint64_t owner) {
  if (range.empty()) return;
  auto it = first_ending_after(range.start);
  if (it == segments_.end() || it->first >= range.end()) {
    // The usual case: nothing there yet. Grow the neighbour on the left rather than insert.
    if (it != segments_.begin()) {
      const auto left = std::prev(it);
      if (end_of(*left) == range.start && left->second.pins == 1 && left->second.owners == owner &&
          left->second.blocks + range.count.value <= kMaxBlocks) {
        left->second.blocks += static_cast<std::uint32_t>(range.count.value);
        if (it != segments_.end() && it->first == range.end()) merge_at(range.end());
        return;
      }
    }
    const bool touches_right = it != segments_.end() && it->first == range.end();
    insert(it, range, owner);
    if (touches_right) merge_at(range.end());
    return;
  }
  split_at(range.start);
  split_at(range.end());
  PoolBlock at = range.start;
  while (at < range.end()) {
    it = segments_.lower_bound(at);
    for (; it != segments_.end() && it->first == at && at < range.end(); ++it) {
      ++it->second.pins;
      it->second.owners += owner;
      at = end_of(*it);
    }
    if (at >= range.end()) break;
    const PoolBlock gap_end =
        it == segments_.end() ? range.end() : std::min(it->first, range.end());
    insert(it, {at, gap_end - at}, owner);
    at = gap_end;
  }
  merge_at(range.start);
  merge_at(range.end());
}

void CountedRanges::remove(PoolRange range, std::uint64_t owner, std::vector<PoolRange>& cleared) {
  if (range.empty()) return;
  auto it = first_ending_after(range.start);
  if (it != segments_.end() && it->first == range.start && it->second.pins == 1 &&
      it->second.blocks == range.count.value) {
    DAXFS_REQUIRE(it->second.owners == owner, "pin of blocks [{}, {}): it is another process's",
                  range.start.value, range.end().value);
    segments_.erase(it);
    cleared.push_back(range);
    return;
  }
  split_at(range.start);
  split_at(range.end());
  const std::size_t mine = cleared.size();
  it = segments_.lower_bound(range.start);
  for (PoolBlock at = range.start; at < range.end();) {
    DAXFS_REQUIRE(it != segments_.end() && it->first == at,
                  "pin of blocks [{}, {}): nothing is counted at block {}", range.start.value,
                  range.end().value, at.value);
    at = end_of(*it);
    Segment& segment = it->second;
    segment.owners -= owner;
    if (--segment.pins > 0) {
      ++it;
      continue;
    }
    DAXFS_REQUIRE(segment.owners == 0, "pin of blocks [{}, {}): it is another process's",
                  range.start.value, range.end().value);
    if (cleared.size() > mine && cleared.back().end() == it->first) {
      cleared.back().count += BlockCount(segment.blocks);
    } else {
      cleared.push_back({it->first, BlockCount(segment.blocks)});
    }
    it = segments_.erase(it);
  }
  merge_at(range.start);
  merge_at(range.end());
}

}  // namespace daxfs
