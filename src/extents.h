// Where files lie in the pool, and how often each piece is pinned: for programs that map it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/inodes.h"
#include "src/open_file.h"

namespace daxfs {

struct PinnedExtent {
  FileOffset file;
  PoolOffset pool;
  ByteCount length;
  bool unwritten = false;
  PinCounts pins;  // the highest over any of its blocks
};

struct PinnedExtents {
  std::vector<PinnedExtent> extents;
  bool writable = false;
  bool more = false;
};

// Thread-safe; changes nothing. What is not pinned may have moved when this returns.
class Extents {
 public:
  Extents(Gate& gate, Inodes& inodes) : gate_(gate), inodes_(inodes) {}

  // Extents number `first` .. of a pin of this file, at most `limit`. ENOENT.
  Result<PinnedExtents> of_pin(OpenFile& file, PinId pin, std::uint64_t first, std::size_t limit);
  // Extents of a file range from byte `offset` on, at most `limit`. EINVAL, EBADF.
  Result<PinnedExtents> of_range(OpenFile& file, FileOffset offset, ByteCount length,
                                 std::size_t limit);
  // The same of an inode whose extents are loaded, under the caller's lock. EINVAL.
  Result<PinnedExtents> of_range_locked(Inode& inode, FileOffset offset, ByteCount length,
                                        std::size_t limit) REQUIRES_SHARED(inode.lock);

 private:
  PinCounts most_pins(PoolRange range) const;

  Gate& gate_;
  Inodes& inodes_;
};

}  // namespace daxfs
