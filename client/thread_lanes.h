// libdaxfs: a number for each thread, so that what threads count in turn is counted by each in a
// place of its own, without locked instructions. (Not in a first call from a signal handler: then
// a lane may stay taken.)
//
// As hazard pointers and userspace RCU do it: the counting thread stores its count and looks, with
// nothing but the compiler in between; who looks at counts has the kernel make all CPUs barriers
// first (membarrier(2)). client/doorbell.h says what that orders.
#pragma once

#include <atomic>

namespace daxfs::client {

inline constexpr unsigned kLanes = 16;
// Of the threads that have found no other: they count with locked instructions.
inline constexpr unsigned kSharedLane = kLanes - 1;

// 0: not chosen yet, or given back; then one more than it is.
[[gnu::tls_model("initial-exec")]] extern __thread unsigned chosen_lane;
unsigned choose_lane();
// Below kLanes. A thread keeps it until it ends, kSharedLane as well.
inline unsigned thread_lane() { return (chosen_lane != 0 ? chosen_lane : choose_lane()) - 1; }

// Whether this process has told the kernel that its threads want such barriers; by the first call.
// (Its memory has: so a forked child, too, and an exec begins anew.)
enum class Asked : signed char { not_yet, yes, in_vain };
extern std::atomic<Asked> asked_for_barriers;
bool ask_the_kernel();
inline bool asks_for_barriers() {
  const Asked asked = asked_for_barriers.load(std::memory_order_relaxed);
  return asked == Asked::not_yet ? ask_the_kernel() : asked == Asked::yes;
}

// Counts of threads, one for each lane. `alone`: only this thread counts there.
template <class Count>
void count_up(std::atomic<Count>& count, bool alone) {
  if (alone) [[likely]] {
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  } else {
    count.fetch_add(1, std::memory_order_seq_cst);
  }
}

template <class Count>
void count_down(std::atomic<Count>& count, bool alone) {
  if (alone) [[likely]] {
    count.store(count.load(std::memory_order_relaxed) - 1, std::memory_order_release);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  } else {
    count.fetch_sub(1, std::memory_order_seq_cst);
  }
}

}  // namespace daxfs::client
