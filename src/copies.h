// Copies that clients make by themselves (docs/direct-access.md), as the gate sees them: a copy
// that is in flight when a detach asks is a short-term pin of its process over the blocks in
// question, until its slot was seen empty or the process has ended. So the gate waits for it as for
// any other one, and what it may still touch goes to limbo where a detach goes ahead all the same.
#pragma once

#include <span>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "lease/gate.h"
#include "src/doorbells.h"
#include "src/health.h"
#include "src/inode.h"
#include "src/mount.h"

namespace daxfs {

// Thread-safe. Its lock is taken after the inode's and before the gate's. Its thread sleeps while
// no copy is in anybody's way.
class Copies {
 public:
  Copies(const Mount& mount, Health& health, Gate& gate);
  ~Copies();  // stop()
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  // Whether anybody ever copied from or into the file: else the rest costs nothing.
  static bool any(const Inode& inode) {
    return inode.doorbells.load(std::memory_order_acquire) != nullptr;
  }
  // A detach of `blocks`, which are the file's in `range`, is about to be judged. Until the ticket
  // ends no copy begins; what is in flight is pinned.
  void revoke(Inode& inode, FileRange range, std::span<const PoolRange> blocks,
              const TicketRef& ticket) REQUIRES(inode.lock);
  // The gate has let it go ahead. What copies in flight may still touch of `blocks` is recorded, so
  // that the next mount keeps it, too, should this one end: to be done before the file loses them.
  // ENOSPC, EIO.
  Status record(const Inode& inode, std::span<const PoolRange> blocks) REQUIRES(inode.lock);

  // Whether this holder of pins stands for copies.
  bool is_copies(HolderId holder) const;

  // From now on no pin of a copy ends. Idempotent.
  void stop();

 private:
  struct Pinned {
    PinId pin;
    FileRange range;
    std::vector<PoolRange> blocks;
    bool recorded = false;
  };
  // The copies of one slot.
  struct Watched {
    std::shared_ptr<Doorbells> doorbells;
    CopiesInFlight copies;
    InodeNumber inode;
    std::uint32_t generation = 0;
    HolderId holder;
    SteadyTime since;
    std::vector<Pinned> pins{};
  };
  Watched& watched(const Inode& inode, const CopiesInFlight& copies) REQUIRES(mutex_);
  void pin(Watched& copies, FileRange range, std::span<const PoolRange> blocks) REQUIRES(mutex_);
  void run() EXCLUDES(mutex_);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  mutable Mutex mutex_;
  Condition attention_;
  std::vector<Watched> watched_ GUARDED_BY(mutex_);
  std::chrono::microseconds pause_ GUARDED_BY(mutex_){};
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace daxfs
