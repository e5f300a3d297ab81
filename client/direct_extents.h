// libdaxfs: where the blocks of an attached file are, as the daemon has said with an epoch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/daxfs.h"

namespace daxfs::client {

// Does not change once it is made.
struct Extents {
  std::uint64_t epoch;
  std::uint64_t additions;
  std::uint64_t end;  // of the file as far as it is known here
  std::size_t count;
  Extents* next;            // of those that are waiting to be freed
  daxfs_extent extents[1];  // `count` of them, in file order

  // What is known from `offset` on, at most `length` bytes: where it is in the pool, or that it
  // reads as zeroes (a hole, or not written yet).
  struct Piece {
    bool zeroes;
    std::uint64_t pool_offset;
    std::uint64_t length;
  };
  Piece at(std::uint64_t offset, std::uint64_t length) const;
};

// Asks the daemon. Null: with errno 0, the file is closed and everybody goes through the kernel;
// with another errno, that is how it failed. free() it.
Extents* ask_for_extents(int fd, std::uint64_t pin_id, std::uint64_t pool_length);

}  // namespace daxfs::client
