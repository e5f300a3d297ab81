// Where this thread is, and the counters that `--stats` prints.
#pragma once

#include <atomic>
#include <cstddef>

#include "client/thread_lanes.h"
#include "tools/run/settings.h"

namespace daxfs::run {

struct Thread {
  // Inside of this library: what comes now comes from a signal handler, and goes by system call.
  unsigned depth;
};
// Found without a call.
[[gnu::tls_model("initial-exec")]] extern __thread Thread this_thread;

class Inside {
 public:
  Inside() {
    this_thread.depth += 1;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~Inside() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    this_thread.depth -= 1;
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

inline Counters* counters = nullptr;  // none: nobody wants to know

// Maps the file that $DAXFS_RUN_STATS names, if it does.
void begin_counting();

inline void note(bool write, Way way, std::uint64_t times = 1) {
  if (counters == nullptr) return;
  Counters::Lane& lane = counters->lanes[client::thread_lane() % Counters::kLanes];
  (write ? lane.writes : lane.reads)[static_cast<std::size_t>(way)].fetch_add(
      times, std::memory_order_relaxed);
}

}  // namespace daxfs::run
