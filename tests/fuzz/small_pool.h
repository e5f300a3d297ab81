// A small populated pool in memory that is the same for every input, mounted as the input chooses.
#pragma once

#include <memory>

#include "blockmap/volume.h"
#include "src/filesystem.h"
#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

// Inodes of the pool: 1 is the root; 2 a file with holes and preallocated blocks, 3 a dense one, 4
// a directory, 5 a file in it, 6 a symbolic link.
inline constexpr std::uint64_t kSparseFile = 2;
inline constexpr std::uint64_t kDenseFile = 3;
inline constexpr std::uint64_t kInnerFile = 5;

// Only one at a time.
class SmallPool {
 public:
  // Every policy, with timeouts of a few milliseconds.
  explicit SmallPool(Input& input);
  ~SmallPool();

  Filesystem& fs() { return *fs_; }
  // Once it is unmounted: it must be sound.
  void require_sound();

 private:
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<Filesystem> fs_;
};

}  // namespace daxfs::fuzz
