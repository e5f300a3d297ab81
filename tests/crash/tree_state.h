// Everything that programs can see of a filesystem, taken at one moment, to be compared.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "src/filesystem.h"
#include "tests/crash/operations.h"

namespace daxfs::testing {

struct FileState {
  std::uint64_t inode = 0;
  std::uint32_t mode = 0;
  std::uint64_t links = 0;
  std::uint64_t uid = 0;
  std::uint64_t gid = 0;
  std::uint64_t size = 0;
  std::uint64_t blocks = 0;
  std::string content;  // of files; of symbolic links the target
  std::map<std::string, std::string> xattrs;
  std::uint16_t flags = 0;
  std::int64_t mtime = 0;
  std::int64_t ctime = 0;
  std::int64_t birth = 0;
};
using TreeState = std::map<std::string, FileState>;  // by path; the root is ""

// Throws std::runtime_error if something cannot be read.
TreeState state_of(Filesystem& fs);

// Blocks of all files, each counted once.
std::uint64_t blocks_of(const TreeState& tree);

// What is wrong with `found`, or nothing.
std::optional<std::string> difference(const TreeState& found, const TreeState& expected);

// The same for a state that an operation in flight may have left.
std::optional<std::string> difference_in_flight(const TreeState& found, const TreeState& before,
                                                const TreeState& after, Promise promise);

}  // namespace daxfs::testing
