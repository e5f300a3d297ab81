// Which sequences of operations are explored.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tests/crash/operations.h"

namespace daxfs::testing {

struct Workload {
  Sequence sequence;
  std::size_t first = 0;  // operations before it are explored elsewhere
};

// Every operation of the vocabulary by itself.
std::vector<Workload> single_operations();
// Every operation after every other one (as ACE, the bounded exhaustive generator of CrashMonkey,
// does it), in a mixed order: a part of them is a sample of all.
std::vector<Workload> pairs_of_operations();
// Longer ones by hand, for what takes more than two steps: limbo, orphans, directories and extent
// chains that grow and shrink by blocks, detaches of more than a transaction.
std::vector<Workload> stories();
// `length` operations by chance. A seed always gives the same.
Workload random_workload(std::uint64_t seed, std::size_t length);

}  // namespace daxfs::testing
