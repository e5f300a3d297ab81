// One sequence of operations, carried out and written down: the trace, and what the tree looked
// like after each operation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/operations.h"
#include "tests/crash/planted_bug.h"
#include "tests/crash/reversible_medium.h"
#include "tests/crash/trace.h"
#include "tests/crash/tree_state.h"

namespace daxfs::testing {

struct Recording {
  Trace mount;  // of the mount that came before the operations
  Trace trace;
  std::vector<TreeState> trees;  // [0]: before; [n]: when operation n - 1 had returned
  std::vector<Promise> promises;
  bool last_refused = false;
  // What was wrong without any crash: blocks lost, or in two places.
  std::optional<std::string> wrong;
};

// The same sequence on the same medium gives the same recording. Leaves the medium as it was.
Recording record(ReversibleMedium& medium, const Sequence& sequence, const PlantedBug* bug);

// A pool with the prepared tree, in which all that is free holds rubbish.
std::unique_ptr<ReversibleMedium> make_prepared_pool();

// Options of all mounts here: detaches of pinned blocks go ahead (limbo), no access times.
MountOptions crash_mount_options();

}  // namespace daxfs::testing
