// The vocabulary of the explorer: operations on a small prepared tree, as text and as calls.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/crash/path_calls.h"

namespace daxfs::testing {

// What a crash may leave of an operation in flight.
enum class Promise : std::uint8_t {
  // Wholly there or not at all.
  atomic,
  // Data goes in place: until the metadata is as after, any words of it may be there, and the
  // times.
  // Once it is, all is.
  data_first,
  // Several steps, each of them whole: sizes, blocks and times may be those of before or after
  // each, data any mix.
  in_steps,
};

struct Operation {
  std::string verb;
  std::string path;
  std::string other;  // second path, name or value
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  Promise promise() const;
  bool operator==(const Operation&) const = default;
};
using Sequence = std::vector<Operation>;

// "write /a 100 50; unlink /b" and back. Throws std::runtime_error with what is wrong.
std::string to_string(const Operation& operation);
std::string to_string(const Sequence& sequence);
Sequence parse_sequence(std::string_view text);

// Carries operations out, with the open files and pins that they need.
class Runner {
 public:
  explicit Runner(Filesystem& fs) : calls_(fs) {}
  // False if the filesystem refused it (then nothing may have changed).
  bool run(const Operation& operation, unsigned number);

  // Blocks of every pin that is held.
  std::vector<PoolRange> pinned();

 private:
  struct Held {
    OpenFileRef file;
    PinId pin;
  };
  void carry_out(const Operation& operation, unsigned number);

  PathCalls calls_;
  std::vector<OpenFileRef> open_;  // by `open`, the last first to close
  std::vector<Held> pins_;
};

// Lays the tree on a new filesystem:
//   /a  3 blocks and some bytes     /b  9000 bytes       /h  5 blocks     /s  symbolic link
//   /f  every second block, 4 extents: as many as an inode holds itself
//   /d/c  with an attribute         /d/e, /g  empty directories
void prepare_tree(PathCalls& calls);

// One or more operations of every kind, on that tree.
const Sequence& vocabulary();

}  // namespace daxfs::testing
