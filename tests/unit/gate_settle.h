// Waiting until the gate's thread has tried again all that was ready.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "lease/gate.h"

namespace daxfs::test {

struct Settled {
  bool parked;   // whether the sentinel had to wait
  bool in_time;  // whether the gate's thread has come to it
};

// `sentinel` must have to wait. It is given up at once: the newest of all requests that are ready,
// and so the last to be tried.
inline Settled settle(Gate& gate, const DetachRequest& sentinel) {
  std::mutex mutex;
  std::condition_variable came;
  bool done = false;
  const TicketRef ticket = gate.begin([&] {
    const std::lock_guard lock(mutex);
    done = true;
    came.notify_all();
  });
  const bool parked = gate.judge(ticket, sentinel) == Verdict::parked;
  gate.cancel(ticket);
  std::unique_lock lock(mutex);
  const bool in_time = came.wait_for(lock, std::chrono::seconds(60), [&] { return done; });
  lock.unlock();
  gate.end(ticket);
  return {parked, in_time};
}

}  // namespace daxfs::test
