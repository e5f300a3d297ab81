// What the entries of all directories say about each inode.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/units.h"
#include "blockmap/format.h"

namespace daxfs::fsck {

enum class Kind : std::uint8_t { free, file, directory };
enum class Reach : std::uint8_t { unknown, visiting, yes, no };

struct Seen {
  std::uint64_t parent = 0;  // of a directory: the directory that has a name for it; 0: none
  PoolOffset entry;          // of a directory: that name
  std::uint32_t names = 0;
  std::uint32_t subdirectories = 0;
  Kind kind = Kind::free;
  Reach reach = Reach::unknown;
  bool has_entries = false;
  bool is_orphan = false;  // its record says that no name refers to it
};

// By inode number. Chunks without an inode in use cost nothing.
class Tree {
 public:
  explicit Tree(std::uint64_t capacity) : chunks_(capacity / pmem::kChunkInodes) {}

  Seen& operator[](InodeNumber inode) {
    const std::uint64_t number = (inode.value - 1) / pmem::kChunkInodes;
    if (number >= chunks_.size()) chunks_.resize(number + 1);  // lost+found may need a new chunk
    auto& chunk = chunks_[number];
    if (!chunk) chunk = std::make_unique<Chunk>();
    return (*chunk)[(inode.value - 1) % pmem::kChunkInodes];
  }
  // Calls `visit(InodeNumber, Seen&)` for each inode in use.
  template <class Visit>
  void for_each(const Visit& visit) {
    for (std::uint64_t c = 0; c < chunks_.size(); ++c) {
      if (!chunks_[c]) continue;
      for (std::uint64_t i = 0; i < pmem::kChunkInodes; ++i) {
        Seen& seen = (*chunks_[c])[i];
        if (seen.kind != Kind::free) visit(InodeNumber(c * pmem::kChunkInodes + i + 1), seen);
      }
    }
  }

 private:
  using Chunk = std::array<Seen, pmem::kChunkInodes>;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

class Context;

// Sets kind and is_orphan of every inode, checks every directory's blocks and entries, and counts.
void check_directories(Context& context, Tree& tree);

// Breaks loops and puts what no name leads to into /lost+found.
void reconnect(Context& context, Tree& tree);

}  // namespace daxfs::fsck
