// Fences: where detaches are waiting, and so new pins queue behind them.
#pragma once

#include <absl/container/btree_map.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/units.h"

namespace daxfs {

// A request's place in the order of arrival; never repeats.
using Arrival = std::uint64_t;

// A truncate's range may reach to the end of all numbers: no ends are computed here.
constexpr bool overlap(const FileRange& a, const FileRange& b) {
  if (a.empty() || b.empty()) return false;
  return a.start <= b.start ? b.start - a.start < a.count : a.start - b.start < b.count;
}

// Not thread-safe (the gate's lock guards it).
class Fences {
 public:
  struct Fence {
    InodeNumber inode;
    FileRange range;
    bool operator==(const Fence&) const = default;
  };

  // Precondition: this arrival has no other fence in this file.
  void raise(Arrival arrival, const Fence& fence);
  void lift(Arrival arrival, const Fence& fence);
  // The newest fence over the range that is older than `arrival`. The newest, because the others
  // have then probably gone when it goes.
  std::optional<Arrival> newest_before(Arrival arrival, const Fence& range) const;
  // The requests that have a fence in this file, and over (part of) this range.
  std::vector<Arrival> in(InodeNumber inode) const;
  std::vector<Arrival> over(const Fence& range) const;
  bool empty() const { return fences_.empty(); }

 private:
  // Few files have fences, and their requests are looked through one by one: an interval tree
  // would have to order overlapping ranges by age as well.
  absl::btree_map<std::pair<InodeNumber, Arrival>, FileRange> fences_;
};

}  // namespace daxfs
