// The one door through which the filesystem changes persistent memory.
//
// Reading is plain loading through at(). Every change goes through write(), zero(), store() or
// fill-in helpers built on them, and is durable once fence() has been called by the same thread
// afterwards. Nothing else in the program may modify mapped pool memory: tests put a recorder here
// and explore every crash state that the calls allow.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

#include "base/require.h"
#include "base/units.h"

namespace daxfs {

class Medium {
 public:
  Medium() = default;
  Medium(const Medium&) = delete;
  Medium& operator=(const Medium&) = delete;
  virtual ~Medium() = default;

  ByteCount size() const { return size_; }
  BlockCount blocks() const { return BlockCount(size_.value >> kBlockShift); }

  // Where an offset is mapped. Valid for as long as the medium. The caller has checked the offset;
  // only expensive builds do so again.
  const std::byte* at(PoolOffset offset) const {
    DAXFS_REQUIRE_EXPENSIVE(offset <= PoolOffset(size_.value), "offset {} of a pool of {} bytes",
                            offset.value, size_.value);
    return base_ + offset.value;
  }
  const std::byte* at(PoolBlock block) const { return at(offset_of(block)); }

  // Copies a trivially copyable object out of the pool (no aliasing or alignment demands).
  template <class T>
  T load(PoolOffset offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T out;
    std::memcpy(&out, at(offset), sizeof out);
    return out;
  }

  // Bulk data: copied past the CPU caches (non-temporal stores), and so not ordered with a later
  // store() to the same bytes: fence() between them.
  virtual void write(PoolOffset to, std::span<const std::byte> data) = 0;
  virtual void zero(PoolOffset to, ByteCount length) = 0;
  // Small metadata: stored through the caches, then its cache lines are flushed. An aligned store
  // of 8 bytes is atomic with respect to a crash; anything longer may be torn.
  virtual void store(PoolOffset to, std::span<const std::byte> data) = 0;
  // Everything that this thread changed before is durable when fence() returns, unless failed().
  virtual void fence() = 0;
  // Whether changes were lost: a fence could not make them durable (a page-granular pool whose
  // msync failed), or there was no storage below a page (lost_pages.h). Stays true: nothing since
  // then may be reported as durable, and the filesystem should stop changing.
  virtual bool failed() const { return false; }
  // Whether what is read there is not what was written, because the storage below is gone.
  virtual bool lost(PoolOffset, ByteCount) const { return false; }
  // For people: what failed() is about, as the end of a sentence that names the pool; "" without.
  virtual std::string failure() const { return {}; }

  void store_u64(PoolOffset to, std::uint64_t v) { store(to, std::as_bytes(std::span(&v, 1))); }

 protected:
  // Of every change: beyond the map lies memory that is something else.
  void require_inside(PoolOffset to, ByteCount length) const {
    DAXFS_REQUIRE(to.value <= size_.value && length.value <= size_.value - to.value,
                  "{} bytes at {} are written, beyond the pool's {}", length.value, to.value,
                  size_.value);
  }
  // Copies as store() promises it: an aligned word goes out as one.
  static void copy_small(std::byte* to, std::span<const std::byte> data) {
    if (data.size() == sizeof(std::uint64_t) &&
        reinterpret_cast<std::uintptr_t>(to) % sizeof(std::uint64_t) == 0) {
      std::uint64_t word;
      std::memcpy(&word, data.data(), sizeof word);
      std::atomic_ref(*reinterpret_cast<std::uint64_t*>(to)).store(word, std::memory_order_relaxed);
    } else if (!data.empty()) {
      std::memcpy(to, data.data(), data.size());
    }
  }

  std::byte* base_ = nullptr;
  ByteCount size_;
};

}  // namespace daxfs
