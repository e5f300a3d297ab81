// libdaxfs: copying from and into the pool. What is stored is durable when this returns; where the
// storage below a page has gone, the copy ends elsewhere instead of killing the process.
#pragma once

#include <atomic>
#include <cstddef>

namespace daxfs::client {

// A mapping, which forked children do not have.
struct Mapping {
  std::byte* start = nullptr;
  std::size_t length = 0;
};

// What a thread touches of a pool, which can lose its storage at any time.
struct Guard {
  Mapping mappings[2];
  std::size_t step = 0;  // in which they can be mapped
  std::atomic<bool>* lost = nullptr;
};

// While it lives, SIGBUS in one of the mappings does not end the process: memory that is nobody's
// takes the place of the lost page, and *lost is set before. So whoever reads *lost after the copy,
// and finds it false, has copied from and into the pool. `lost` stays set: the mapping is of no use
// any more.
class Guarded {
 public:
  explicit Guarded(const Guard& guard) : outer_(armed_) { arm(&guard); }
  ~Guarded() { arm(outer_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  static const Guard* armed() { return armed_; }

 private:
  static void arm(const Guard* guard) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    armed_ = guard;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  // Found without a call, also in a shared library.
  [[gnu::tls_model("initial-exec")]] static __thread const Guard* armed_;
  const Guard* const outer_;  // in a signal handler that has interrupted another copy
};

// Whether this CPU's stores can be made durable here.
bool can_copy_durably();
// Once, before the first Guarded: takes SIGBUS, and hands on what comes from elsewhere.
bool catch_lost_storage();

void copy_out(void* to, const std::byte* from, std::size_t length);
void copy_in(std::byte* to, const void* from, std::size_t length);

}  // namespace daxfs::client
