#include "fuse_ops/notifier.h"

#include <utility>

namespace daxfs {

Notifier::Notifier(fuse_session* session, ops::Pollers& pollers)
    : session_(session), pollers_(pollers), thread_([this] { run(); }) {}

Notifier::~Notifier() {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Notifier::invalidate_attributes(InodeNumber inode) {
  // A negative offset means: attributes only. ENOENT (the kernel does not know the inode) is as
  // good as done.
  fuse_lowlevel_notify_inval_inode(session_, inode.value, -1, 0);
}

void Notifier::invalidate_data(InodeNumber inode, std::function<void()> done) {
  {
    const std::lock_guard guard(mutex_);
    jobs_.push_back({inode, std::move(done)});
  }
  wake_.notify_one();
}

void Notifier::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    fuse_lowlevel_notify_inval_inode(session_, job.inode.value, 0, 0);
    job.done();
    lock.lock();
  }
}

}  // namespace daxfs
