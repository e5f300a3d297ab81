// A small populated pool in memory that is the same for every input.
#pragma once

#include <functional>

#include "src/filesystem.h"
#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

// Inodes of the pool: 1 is the root; 2 a file with holes and preallocated blocks, 3 a dense one, 4
// a directory, 5 a file in it, 6 a symbolic link.
inline constexpr std::uint64_t kSparseFile = 2;
inline constexpr std::uint64_t kDenseFile = 3;
inline constexpr std::uint64_t kInnerFile = 5;

// Mounts it as the first choice says (every policy, with timeouts of a few milliseconds), lets
// `use` do something and unmount it, and requires that it is sound then. Not thread-safe.
void on_small_pool(Input input, const std::function<void(Filesystem&, Input&)>& use);

}  // namespace daxfs::fuzz
