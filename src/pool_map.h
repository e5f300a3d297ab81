// The pool as a map of cells, for people who look at it: what is used, pinned, in limbo, in grace.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/units.h"

namespace daxfs {

// Not thread-safe. At most kMostCells cells of one size, a power of two, over the data area.
class PoolMap {
 public:
  static constexpr std::uint64_t kMostCells = 4096;

  explicit PoolMap(PoolRange area);

  std::uint64_t cells() const { return cells_.size(); }
  PoolRange area_of(std::uint64_t cell) const;
  void set_free(std::uint64_t cell, BlockCount free);
  // Ranges may reach beyond the area; that part counts nowhere.
  void add_pinned(PoolRange range);  // once, however many pins there are
  void add_limbo(PoolRange range);
  void add_grace(PoolRange range);
  // `process` has a pin there: who has most of a cell is named.
  void add_holder(PoolRange range, pid_t process);

  // One JSON object: {"cell_blocks", "first_block", "blocks", "cells": [[cell, used, pinned, limbo,
  // grace, pid], ...]}, in blocks: of files; of these, pinned by a process that lives; in limbo;
  // pinned for one that has ended; who pins most. Cells in which nothing is are left out.
  std::string text() const;

 private:
  struct Cell {
    std::uint64_t used = 0;
    std::uint64_t pinned = 0;
    std::uint64_t limbo = 0;
    std::uint64_t grace = 0;
  };
  template <class Visit>
  void split(PoolRange range, const Visit& visit);

  const PoolRange area_;
  const unsigned shift_;  // of a cell's size in blocks
  std::vector<Cell> cells_;
  absl::flat_hash_map<std::pair<std::uint64_t, pid_t>, std::uint64_t> held_;  // cell, process
};

}  // namespace daxfs
