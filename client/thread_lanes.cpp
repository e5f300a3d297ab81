#include "client/thread_lanes.h"

#include <pthread.h>

#include <cstdint>

#include "client/doorbell.h"

namespace daxfs::client {

__thread unsigned chosen_lane;
std::atomic<Asked> asked_for_barriers{Asked::not_yet};

namespace {

std::atomic<std::uint32_t> taken{0};  // a bit for each lane that a thread has for itself
pthread_key_t at_end;
bool has_key = false;

std::uint32_t bit_of(unsigned lane) { return std::uint32_t{1} << lane; }

// As a thread ends. (Should it count once more, it chooses anew, and this comes again.)
void give_back(void*) {
  const unsigned lane = chosen_lane - 1;
  chosen_lane = 0;
  if (lane != kSharedLane) taken.fetch_and(~bit_of(lane), std::memory_order_release);
}

// In a forked child there is only the thread that has forked.
void after_fork() {
  const unsigned mine = chosen_lane;
  taken.store(mine != 0 && mine - 1 != kSharedLane ? bit_of(mine - 1) : 0,
              std::memory_order_relaxed);
}

[[gnu::constructor]] void prepare() {
  has_key = pthread_key_create(&at_end, give_back) == 0 &&
            pthread_atfork(nullptr, nullptr, after_fork) == 0;
}

}  // namespace

unsigned choose_lane() {
  std::uint32_t seen = taken.load(std::memory_order_relaxed);
  for (unsigned lane = 0; has_key && lane < kSharedLane;) {
    if ((seen & bit_of(lane)) != 0) {
      ++lane;
      continue;
    }
    // Acquire, paired with give_back(): what the thread before has counted there.
    if (!taken.compare_exchange_weak(seen, seen | bit_of(lane), std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      lane = 0;
      continue;
    }
    if (pthread_setspecific(at_end, &taken) != 0) {
      taken.fetch_and(~bit_of(lane), std::memory_order_relaxed);
      break;
    }
    return chosen_lane = lane + 1;
  }
  return chosen_lane = kSharedLane + 1;
}

bool ask_the_kernel() {
  const bool done = doorbell::ask_for_barriers();
  asked_for_barriers.store(done ? Asked::yes : Asked::in_vain, std::memory_order_relaxed);
  return done;
}

}  // namespace daxfs::client
