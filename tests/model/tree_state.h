// Everything that programs can see of a filesystem, taken at one moment, to be compared.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "src/filesystem.h"

namespace daxfs::testing {

struct FileState {
  std::uint32_t mode = 0;
  std::uint64_t links = 0;
  std::uint64_t uid = 0;
  std::uint64_t gid = 0;
  std::uint64_t size = 0;
  std::uint64_t blocks = 0;
  std::string content;  // of files; of symbolic links the target
  std::map<std::string, std::string> xattrs;
  std::int64_t mtime = 0;
  std::int64_t ctime = 0;
};
using TreeState = std::map<std::string, FileState>;  // by path; the root is ""

TreeState state_of(Filesystem& fs);

// How a state may differ from what is expected.
enum class Tolerance : std::uint8_t {
  none,
  times,    // times may be anything
  content,  // and each aligned word of a file's content may be that of `other`
};

// What is wrong with `found`, or nothing. `other` matters for Tolerance::content.
std::optional<std::string> difference(const TreeState& found, const TreeState& expected,
                                      Tolerance tolerance, const TreeState& other);

}  // namespace daxfs::testing
