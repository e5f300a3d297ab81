// A consistency check that changes nothing: for tests, and the last word of fsck.daxfs. It stops at
// the first damage that a mount would stop at; fsck/ finds them all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/process_identity.h"
#include "blockmap/medium/medium.h"
#include "blockmap/pin_records.h"

namespace daxfs {

struct CheckReport {
  std::vector<std::string> errors;  // one line each; empty: all is well
  std::uint64_t files = 0;          // inodes that are no directories
  std::uint64_t directories = 0;
  std::uint64_t data_blocks = 0;      // of files and directories
  std::uint64_t metadata_blocks = 0;  // everything else that is not free
  std::uint64_t free_blocks = 0;
  std::uint64_t pins = 0;         // of living processes, recorded by an earlier mount
  std::uint64_t kept_blocks = 0;  // of no file, and not free because of these pins

  bool ok() const { return errors.empty(); }
};

// Everything that Volume::open() verifies, and besides: names, link counts, the directory tree,
// extended attributes and block counts. The pool may be mounted, as long as nobody changes it
// meanwhile. Orphans and interrupted detaches are no errors: the next mount deals with them.
CheckReport check_volume(Medium& medium, const std::string& name,
                         const OwnerAlive& alive = is_alive, const PinLocked& locked = {});

}  // namespace daxfs
