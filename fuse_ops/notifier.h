// Tells the kernel that what it has cached is stale (FUSE notifications).
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "fuse_ops/ops.h"
#include "src/kernel_cache.h"

namespace daxfs {

// Dropping pages can wait for a page that a reader has locked, whose READ may need a worker of
// ours: so it is done on threads of its own, never on a worker. Dropping attributes waits for
// nothing and is done at once.
//
// While a truncate waits, the kernel writes no page of its inode (FUSE_NOWRITE in fs/fuse/dir.c),
// and dropping a dirty page waits for that. So nobody waits for these jobs, and while one of them
// keeps a thread there is another for the rest. Only a few writes may wait at a time: the
// asynchronous ones take the kernel's places for background requests, of which the jobs may need
// one. A request that does not wait for its job is told so.
class Notifier : public KernelCache {
 public:
  Notifier(fuse_session* session, ops::Pollers& pollers);
  ~Notifier() override;  // finish()
  // Does what is still queued; what comes later is not done any more. To be called while workers
  // still serve the kernel: dropping pages may need them. Not by two threads at once.
  void finish();
  // finish(), and nothing is told any more: for the end, when no worker is left.
  void disconnect();

  void invalidate_attributes(InodeNumber inode) override;
  void invalidate_data(InodeNumber inode, Dropped done, Asker asker, End end) override;
  void wake_poller(HolderId holder) override;
  void truncate_waits(InodeNumber inode) override;
  void truncate_ends(InodeNumber inode) override;

 private:
  struct Job {
    InodeNumber inode;
    Dropped done;  // null: nobody waits
    Asker asker = Asker::other;
    End end{};  // may be null
  };
  // An inode with truncates that wait.
  struct Waiting {
    unsigned truncates = 0;
    bool stale = false;  // to be invalidated when they have ended
    End end{};
  };
  void run();
  void tell_end(InodeNumber inode, std::uint64_t end);
  void start_thread() REQUIRES(mutex_);
  bool all_stuck() const REQUIRES(mutex_);
  // The request that waits for the job, if any, does not any more: it is to be told so, without the
  // lock.
  void give_up(Job& job, std::vector<Dropped>& told) REQUIRES(mutex_);

  fuse_session* const session_;
  ops::Pollers& pollers_;
  std::atomic<bool> connected_ = true;
  Mutex mutex_;  // a leaf lock
  Condition wake_;
  std::deque<Job> jobs_ GUARDED_BY(mutex_);
  std::vector<Job*> active_ GUARDED_BY(mutex_);  // what the threads are at
  std::map<InodeNumber, Waiting> waiting_ GUARDED_BY(mutex_);
  std::size_t writes_ GUARDED_BY(mutex_) = 0;  // that wait for a job
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ GUARDED_BY(mutex_);
};

}  // namespace daxfs
