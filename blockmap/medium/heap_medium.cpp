#include "blockmap/medium/heap_medium.h"

#include <sys/mman.h>

#include <new>

#include "base/require.h"

namespace daxfs {

HeapMedium::HeapMedium(ByteCount size) {
  // mmap rather than the heap: page-aligned, zeroed, and untouched pages cost nothing.
  void* const memory = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<std::byte*>(memory);
  size_ = size;
}

HeapMedium::~HeapMedium() { ::munmap(base_, size_.value); }

void HeapMedium::write(PoolOffset to, std::span<const std::byte> data) {
  require_inside(to, ByteCount(data.size()));
  if (!data.empty()) std::memcpy(base_ + to.value, data.data(), data.size());
}

void HeapMedium::zero(PoolOffset to, ByteCount length) {
  require_inside(to, length);
  std::memset(base_ + to.value, 0, length.value);
}

void HeapMedium::store(PoolOffset to, std::span<const std::byte> data) {
  require_inside(to, ByteCount(data.size()));
  copy_small(base_ + to.value, data);
}

}  // namespace daxfs
