// A run of steps in two directories of their own, which a seed repeats; and the fewest steps of one
// that went wrong which still go wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/differential/filesystems.h"
#include "tests/differential/pins.h"

namespace daxfs::differential {

struct Piece {
  std::uint64_t seed = 1;
  std::string cache = "through";
  std::set<std::string> left_out;    // names of steps that are not done
  std::vector<std::size_t> steps;    // which ones, in order
  std::size_t compare_every = 1000;  // steps; whole trees
  bool remounts = true;              // at the end: fsck, a mount, and all compared again
};

struct Failure {
  std::string what;
  std::size_t at = 0;  // how many of the steps were done, the one that differed included
  bool after_remount = false;
  std::vector<std::string> lines;  // what was done last
};

// From a signal handler: the piece at work ends with an exception, and all is taken down.
void interrupt();

// The pool is mounted with the piece's cache= before.
std::optional<Failure> run_piece(Filesystems& filesystems, Holder& holder, const Piece& piece);

// Takes steps out for as long as it still goes wrong, and for so many seconds.
Piece shortened(Filesystems& filesystems, Holder& holder, Piece piece, Failure& failure,
                unsigned seconds);

}  // namespace daxfs::differential
