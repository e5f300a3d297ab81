// A medium in anonymous memory (mmap(2), not the heap), for tests and for work on images that
// nobody else sees.
#pragma once

#include <cstring>

#include "blockmap/medium/medium.h"

namespace daxfs {

class HeapMedium : public Medium {
 public:
  explicit HeapMedium(ByteCount size);  // zeroed, page-aligned
  ~HeapMedium() override;

  void write(PoolOffset to, std::span<const std::byte> data) override;
  void zero(PoolOffset to, ByteCount length) override;
  void store(PoolOffset to, std::span<const std::byte> data) override;
  void fence() override {}
};

}  // namespace daxfs
