// A medium in memory that can be set back cheaply, knows a hash of its content at any time, and
// writes down what is done to it.
//
// Setting back and hashing cost as much as what was changed, whatever the size of the pool: that is
// what makes thousands of crash states a second possible.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "blockmap/medium/heap_medium.h"
#include "tests/crash/trace.h"

namespace daxfs::testing {

inline constexpr std::uint64_t kLineBytes = 64;  // of a cache line
inline constexpr std::size_t kLineWords = kLineBytes / sizeof(std::uint64_t);

// Thread-safe as far as any medium is: threads that change different bytes do not disturb each
// other. The size is a multiple of the block size.
class ReversibleMedium : public HeapMedium {
 public:
  explicit ReversibleMedium(ByteCount size);

  void write(PoolOffset to, std::span<const std::byte> data) override;
  void zero(PoolOffset to, ByteCount length) override;
  void store(PoolOffset to, std::span<const std::byte> data) override;
  void fence() override;

  // Becomes a copy of the other medium (of the same size); there is no way back before it.
  void copy_from(const Medium& other);
  // Replaces the words of one aligned line that are set in `mask`.
  void set_line(std::uint64_t offset, unsigned mask, const std::array<std::uint64_t, 8>& words);

  using Mark = std::size_t;
  Mark mark() const { return undo_.size(); }
  // Takes back every change since the mark.
  void roll_back(Mark mark);

  // Equal contents have equal hashes.
  std::uint64_t hash() const { return hash_; }
  std::uint64_t block_hash(PoolBlock block) const { return block_hashes_[block.value]; }

  // From now on calls are appended to `trace`; null: no more.
  void record_to(Trace* trace) { trace_ = trace; }

 protected:
  mutable std::mutex mutex_;  // protects everything below, the trace, and the order of changes

 private:
  struct Line {
    std::uint64_t offset;
    std::array<std::uint64_t, kLineWords> before;
  };
  template <class Change>
  void change(Event::Kind kind, PoolOffset to, std::uint64_t length, const Change& change);
  void save(std::uint64_t begin, std::uint64_t end);
  void toggle(std::uint64_t begin, std::uint64_t end);
  std::uint64_t word(std::uint64_t offset) const;
  unsigned thread_number();

  std::vector<Line> undo_;
  std::vector<std::uint64_t> block_hashes_;
  std::uint64_t hash_ = 0;
  Trace* trace_ = nullptr;
  std::vector<std::thread::id> threads_;
};

}  // namespace daxfs::testing
