// Limbo: blocks that were detached while pinned. They belong to no file, are not free, and are
// freed at the last unpin. (XFS's busy-extent list is the same idea for another reason.)
#pragma once

#include <absl/container/btree_map.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/units.h"

namespace daxfs {

// Not thread-safe (the gate's lock guards it).
class Limbo {
 public:
  using Time = std::chrono::system_clock::time_point;
  struct Piece {
    PoolRange range;
    Time since;
  };

  // Precondition: nothing of the range is in limbo.
  void add(PoolRange range, Time since);
  // Takes out what lies in `range` and appends it to `freed`.
  void release(PoolRange range, std::vector<PoolRange>& freed);
  BlockCount total() const { return total_; }
  // The first piece whose end lies behind `at`, cut to begin at `at` at the earliest; false at the
  // end.
  bool next(PoolBlock at, Piece& out) const;

 private:
  struct Value {
    BlockCount count;
    Time since;
  };
  using Pieces = absl::btree_map<PoolBlock, Value>;
  static PoolBlock end_of(const Pieces::value_type& piece) {
    return piece.first + piece.second.count;
  }

  Pieces pieces_;
  BlockCount total_;
};

}  // namespace daxfs
