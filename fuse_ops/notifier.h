// Tells the kernel that what it has cached is stale (FUSE notifications).
#pragma once

#include <fuse_lowlevel.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "fuse_ops/ops.h"
#include "src/kernel_cache.h"

namespace daxfs {

// Dropping pages can wait for a page that a reader has locked, whose READ may need a worker of
// ours: so it is done on a thread of its own, never on a worker. Dropping attributes waits for
// nothing and is done at once.
class Notifier : public KernelCache {
 public:
  Notifier(fuse_session* session, ops::Pollers& pollers);
  ~Notifier() override;  // does what is still queued

  void invalidate_attributes(InodeNumber inode) override;
  void invalidate_data(InodeNumber inode, std::function<void()> done) override;
  void wake_poller(HolderId holder) override { pollers_.wake(holder); }

 private:
  struct Job {
    InodeNumber inode;
    std::function<void()> done;
  };
  void run();

  fuse_session* session_;
  ops::Pollers& pollers_;
  std::mutex mutex_;  // protects jobs_ and stopping_; a leaf lock
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace daxfs
