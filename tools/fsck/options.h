// The command line of fsck.daxfs.
#pragma once

#include <expected>
#include <string>

namespace daxfs {

struct FsckOptions {
  enum class Repair {
    nothing,  // -n
    ask,      // what is safe; before anything is lost, ask, or without a terminal give up
    safe,     // -p, -a
    all,      // -y
  };
  std::string pool;
  Repair repair = Repair::ask;
  bool json = false;
  bool progress = false;  // -C
  int progress_fd = 0;    // -C FD: lines for fsck(8) instead of a bar
};

// The options, or the exit code of a program that is done (help, wrong usage).
std::expected<FsckOptions, int> parse_fsck_options(int argc, char** argv);

}  // namespace daxfs
