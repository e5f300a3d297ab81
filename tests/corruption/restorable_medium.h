// A medium in memory that is set back at the cost of what was changed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <span>

#include "blockmap/heap_medium.h"

namespace daxfs::corruption {

class RestorableMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;

  void write(PoolOffset to, std::span<const std::byte> data) override {
    touch(to, data.size());
    HeapMedium::write(to, data);
  }
  void zero(PoolOffset to, ByteCount length) override {
    touch(to, length.value);
    HeapMedium::zero(to, length);
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    touch(to, data.size());
    HeapMedium::store(to, data);
  }

  // What was changed since the last call comes from `original`, which has the same size.
  void restore_from(const Medium& original) {
    for (const std::uint64_t page : touched_) {
      const PoolOffset at(page * kBlockSize);
      const std::uint64_t length = std::min(kBlockSize, size().value - at.value);
      std::memcpy(base_ + at.value, original.at(at), length);
    }
    touched_.clear();
  }

 private:
  void touch(PoolOffset to, std::uint64_t length) {
    if (length == 0) return;
    const std::uint64_t last = (to.value + length - 1) / kBlockSize;
    for (std::uint64_t page = to.value / kBlockSize; page <= last; ++page) touched_.insert(page);
  }
  std::set<std::uint64_t> touched_;
};

}  // namespace daxfs::corruption
