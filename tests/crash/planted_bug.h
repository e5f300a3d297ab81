// Bugs planted to prove that the explorer finds them.
//
// None of them is in the code under test, which has no hooks for it. A persistence bug is, seen
// from the medium, a difference in the calls that reach it: a flush or a fence that does not come,
// one that comes late, a store too much. So a planted bug edits the recorded trace into that of a
// program with the bug. A reader's bug (a checksum not verified) is planted by making the image
// look to the correct reader as it does to the careless one; one that is in DRAM only (limbo), by
// doing to the running filesystem what the bug would do.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "src/filesystem.h"
#include "tests/crash/reversible_medium.h"
#include "tests/crash/trace.h"

namespace daxfs::testing {

struct PlantedBug {
  std::string name;
  std::string what;
  // All may be empty. Of the operations:
  std::function<void(Trace&, const pmem::Superblock&)> program = {};
  // Of a mount that recovers:
  std::function<void(Trace&, const pmem::Superblock&)> recovery = {};
  // What a careless reader sees in a crash image.
  std::function<void(ReversibleMedium&, const pmem::Superblock&)> reader = {};
  // After an operation, with what is pinned.
  std::function<void(Filesystem&, std::span<const PoolRange> pinned)> running = {};
};

std::span<const PlantedBug> planted_bugs();
// Null if there is none of that name.
const PlantedBug* find_planted_bug(const std::string& name);

}  // namespace daxfs::testing
