// What the kernel was given of pinned blocks for its page cache, while their file is pinned for
// writing.
//
// A page that a mapping has stored into comes back as a whole, and the rest of it may be older than
// what the holder of a pin has stored in the block meanwhile. What differs from what the kernel was
// given is what has been stored there: only that may be written.
#pragma once

#include <absl/container/btree_map.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/units.h"

namespace daxfs {

// Thread-safe; the mutex is a leaf.
class GivenPages {
 public:
  // How many are remembered in all: 64 MiB.
  static constexpr std::size_t kMost = 16384;

  bool any() const { return count_ != 0; }

  // The kernel reads whole pages from `offset` on, and fills up the last one with zeroes. Those of
  // `pinned` blocks are remembered, others of the range are not any more. False: there was no room
  // for all.
  bool given(InodeNumber inode, FileOffset offset, std::span<const std::byte> data,
             std::span<const FileRange> pinned);
  void forget(InodeNumber inode, FileRange blocks);
  void forget(InodeNumber inode);

  // A program has written through the page cache: the kernel has this in its pages, too. Whole
  // pages it can have without a read; they are remembered if `pinned`.
  void written(InodeNumber inode, FileOffset offset, std::span<const std::byte> data, bool pinned);
  // The kernel clears this part of its pages, and lets go of whole ones.
  void zeroed(InodeNumber inode, FileOffset offset, ByteCount length);

  // Pages come back. What of them is to be written; all of those that are not remembered.
  struct Piece {
    std::size_t from;
    std::size_t length;
  };
  std::vector<Piece> changes(InodeNumber inode, FileOffset offset, std::span<const std::byte> data);

  // For pages that the kernel is told to drop: what was given before now() is gone when it has.
  std::uint64_t now() const { return time_; }
  void forget_until(InodeNumber inode, std::uint64_t time);

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;  // inode, block
  using Bytes = std::array<std::byte, kBlockSize>;
  struct Page {
    std::uint64_t given = 0;
    std::unique_ptr<Bytes> bytes;
  };
  using Pages = absl::btree_map<Key, Page>;
  bool remember(Key key, std::span<const std::byte> data) REQUIRES(mutex_);
  void recount() REQUIRES(mutex_) { count_ = pages_.size(); }

  mutable Mutex mutex_;
  Pages pages_ GUARDED_BY(mutex_);
  std::atomic<std::size_t> count_ = 0;
  std::atomic<std::uint64_t> time_ = 0;
};

}  // namespace daxfs
