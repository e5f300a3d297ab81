// Pins whose process has ended, while a device may still be at work for it.
//
// The last close of a descriptor that an ending process brings about is not an unpin: requests that
// it has submitted (io_uring, RDMA) can outlive it and cannot be recalled. So its pins stay for the
// grace (exit_grace=), or until it is certain that no page of the machine is pinned any more
// (base/pinned_pages.h). In the kernel, DAX truncation waits for page references in the same
// way (dax_break_layout() in fs/dax.c); user space sees no references, only their sum.
//
// What libdaxfs has mapped for a pin stays mapped in forked children, which may have no descriptor.
// The lock of the pin tells (blockmap/pin_lock.h); then its holder's pins stay until that is gone,
// too.
//
// By the time of that close the memory of the process that ended has gone (the kernel takes it down
// before the descriptors, at an exec as well), so nothing but what is pinned already can be reached
// for it.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/process_end.h"
#include "blockmap/pin_records.h"
#include "lease/gate.h"

namespace daxfs {

// Thread-safe. Has a thread of its own, which sleeps while there is nobody in grace.
class Grace {
 public:
  // With the holder's pins, when they have ended.
  using Ended = std::function<void(const std::vector<PinInfo>&)>;

  // Says which pins are mapped by anybody now. None: nobody can map any.
  using Locks = std::function<PinLocked()>;

  Grace(Gate& gate, Locks locks);  // the gate outlives it
  ~Grace();                        // stop()
  Grace(const Grace&) = delete;
  Grace& operator=(const Grace&) = delete;

  // For the last close of the holder's descriptor, which these have used. Returns nothing if the
  // pins may end now. Else returns the processes that are ending (none, where that cannot be told);
  // the pins stay until these have gone. Reads /proc.
  using Awaited = std::vector<ProcessMark>;
  std::optional<Awaited> due(HolderId holder, std::span<const ProcessMark> users) const;
  // The holder's leases end at once, its pins in time. No request of it may follow.
  void begin(HolderId holder, Awaited awaited, Ended ended);
  // How long a holder's pins may still stay; nothing if it is not in grace.
  std::optional<std::chrono::milliseconds> left(HolderId holder) const;

  // From now on nobody's pins end: their records stay in the pool, for the next mount. Idempotent.
  void stop();

 private:
  struct Leaver {
    HolderId holder;
    Awaited awaited;
    SteadyTime since;
    Ended ended;
  };
  PinLocked locks() const { return locks_ ? locks_() : PinLocked(); }
  bool is_mapped(HolderId holder, const PinLocked& locked) const;
  void run();
  // Until it is time to look again, or somebody has come. False: it is to stop.
  bool rest() REQUIRES(mutex_);
  // Takes those out whose time has come. The lock is let go of while /proc is read.
  std::vector<Leaver> take_ended() REQUIRES(mutex_);

  Gate& gate_;
  const Locks locks_;
  mutable Mutex mutex_;  // a leaf lock
  Condition attention_;
  std::vector<Leaver> leavers_ GUARDED_BY(mutex_);  // only the thread takes some out
  std::chrono::milliseconds sleep_ GUARDED_BY(mutex_){};
  bool news_ GUARDED_BY(mutex_) = false;  // one has come since the thread last looked
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace daxfs
