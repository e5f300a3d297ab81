// Which crash states of a moment to look at: all subsets of the pending cache lines where there are
// few, else those in which bugs were found elsewhere (Chipmunk, Vinter, Yat), and samples.
#pragma once

#include <cstdint>
#include <functional>
#include <random>

#include "tests/crash/pending_lines.h"

namespace daxfs::testing {

struct CutOptions {
  std::size_t all_subsets = 6;  // of so many lines at most, every subset
  std::size_t per_kind = 16;    // at most so many states of each systematic kind
  std::size_t torn = 6;         // random states down to single words
};

// Lines that belong to one object arrive together in some of the states: names it by number.
using ObjectOf = std::function<std::uint64_t(std::uint64_t offset)>;

// Calls `visit` for each state, the one where nothing arrived first and that where everything did
// last. The same one may come twice. The lines go by
//   - subset (where few), prefix and suffix in the order of their first calls,
//   - each alone, and each as the only one missing,
//   - each object (journal lane, inode, extent block, ...) alone, missing, and up to it in order,
//   - each call that touched a line more than once, beside nothing and beside everything,
//   - single words missing or torn.
void for_each_cut(const PendingLines& pending, const CutOptions& options, const ObjectOf& object_of,
                  std::mt19937_64& random, const std::function<void(const Cut&)>& visit);

}  // namespace daxfs::testing
