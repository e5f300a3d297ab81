// Pins whose process has ended, while a device may still be at work for it.
//
// The last close of a descriptor that an ending process brings about is not an unpin: requests that
// it has submitted (io_uring, RDMA) can outlive it and cannot be recalled. So its pins stay for the
// grace (exit_grace=), or until it is certain that no page of the machine is pinned any more
// (blockmap/pinned_pages.h). In the kernel, DAX truncation waits for page references in the same
// way (dax_break_layout() in fs/dax.c); user space sees no references, only their sum.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "lease/gate.h"

namespace daxfs {

// Thread-safe. Has a thread of its own, which sleeps while there is nobody in grace.
class Grace {
 public:
  // With the holder's pins, when they have ended.
  using Ended = std::function<void(const std::vector<PinInfo>&)>;

  explicit Grace(Gate& gate);  // which outlives it
  ~Grace();                    // stop()
  Grace(const Grace&) = delete;
  Grace& operator=(const Grace&) = delete;

  // Whether pins of the holder may not end at its last close: one of the processes that took them
  // is ending, gone, or not to be judged from here.
  bool is_due(HolderId holder) const;
  // The holder's leases end at once, its pins in time. No request of it may follow.
  void begin(HolderId holder, Ended ended);
  // How long a holder's pins may still stay; nothing if it is not in grace.
  std::optional<std::chrono::milliseconds> left(HolderId holder) const;

  // From now on nobody's pins end: their records stay in the pool, for the next mount. Idempotent.
  void stop();

 private:
  struct Leaver {
    HolderId holder;
    std::vector<pid_t> processes;
    SteadyTime since;
    Ended ended;
  };
  void run();
  // Takes those out whose time has come. With the lock held.
  std::vector<Leaver> take_ended(SteadyTime now);

  Gate& gate_;
  mutable std::mutex mutex_;  // protects what follows; taken before the gate's
  std::condition_variable attention_;
  std::vector<Leaver> leavers_;
  bool news_ = false;  // one has come since the thread last looked
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace daxfs
