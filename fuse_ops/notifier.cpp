#include "fuse_ops/notifier.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <span>
#include <system_error>
#include <utility>

#include "base/background_thread.h"

namespace daxfs {
namespace {

// A thread drops the pages of one inode, and waits for its truncate. When this many inodes keep a
// thread, the next one queues until one of them has finished.
constexpr std::size_t kMostThreads = 32;
// Half of the kernel's places for background requests (max_background in session.cpp).
constexpr std::size_t kMostWrites = 32;

}  // namespace

Notifier::Notifier(fuse_session* session, ops::Pollers& pollers)
    : session_(session), pollers_(pollers) {
  threads_.reserve(kMostThreads);
  const MutexLock guard(mutex_);
  start_thread();
}

Notifier::~Notifier() { finish(); }

void Notifier::finish() {
  std::span<std::thread> all;
  {
    const MutexLock guard(mutex_);
    stopping_ = true;
    all = threads_;  // nobody adds one from now on
  }
  wake_.notify_all();
  for (std::thread& thread : all) {
    if (thread.joinable()) thread.join();
  }
}

void Notifier::disconnect() {
  finish();
  connected_ = false;
}

void Notifier::start_thread() {
  threads_.push_back(background_thread("daxfs-notifier", [this] { run(); }));
}

bool Notifier::all_stuck() const {
  const auto is_stuck = [this](const Job* job) {
    mutex_.assert_held();
    return waiting_.contains(job->inode);
  };
  return active_.size() == threads_.size() && std::ranges::all_of(active_, is_stuck);
}

void Notifier::invalidate_attributes(InodeNumber inode) {
  // A negative offset means: attributes only. ENOENT (the kernel does not know the inode) is as
  // good as done.
  if (connected_) fuse_lowlevel_notify_inval_inode(session_, inode.value, -1, 0);
}

void Notifier::wake_poller(HolderId holder) {
  if (connected_) pollers_.wake(holder);
}

void Notifier::give_up(Job& job, std::vector<Dropped>& told) {
  if (!job.done) return;
  told.push_back(std::exchange(job.done, nullptr));
  if (job.asker == Asker::write) --writes_;
}

void Notifier::invalidate_data(InodeNumber inode, Dropped done, Asker asker) {
  {
    const MutexLock guard(mutex_);
    if (const auto waiting = waiting_.find(inode); waiting != waiting_.end()) {
      waiting->second.stale = true;
    } else if (!stopping_) {
      const bool write = asker == Asker::write;
      const bool waits = done && !all_stuck() && (!write || writes_ < kMostWrites);
      jobs_.push_back({inode, waits ? std::exchange(done, nullptr) : nullptr, asker});
      if (waits && write) ++writes_;
    }
  }
  wake_.notify_one();
  if (done) done(false);
}

void Notifier::truncate_waits(InodeNumber inode) {
  std::vector<Dropped> told;
  {
    const MutexLock guard(mutex_);
    Waiting& waiting = waiting_[inode];
    ++waiting.truncates;
    std::erase_if(jobs_, [&](Job& job) {
      mutex_.assert_held();
      if (job.inode != inode) return false;
      waiting.stale = true;
      give_up(job, told);
      return true;
    });
    for (Job* job : active_) {
      if (job->inode == inode) give_up(*job, told);
    }
    if (all_stuck() && threads_.size() < kMostThreads && !stopping_) {
      try {
        start_thread();
      } catch (const std::system_error&) {
        spdlog::warn(
            "no thread to be had: what the kernel has cached stays until a truncate of "
            "inode {} is over",
            inode.value);
      }
    }
    // Of other files; the truncate may be waiting for a process that waits for one of these.
    if (all_stuck()) {
      for (Job& job : jobs_) give_up(job, told);
    }
  }
  for (const Dropped& done : told) done(false);
}

void Notifier::truncate_ends(InodeNumber inode) {
  {
    const MutexLock guard(mutex_);
    const auto waiting = waiting_.find(inode);
    if (--waiting->second.truncates > 0) return;
    if (waiting->second.stale && !stopping_) jobs_.push_back({inode, nullptr, Asker::other});
    waiting_.erase(waiting);
  }
  wake_.notify_one();
}

void Notifier::run() {
  const MutexLock lock(mutex_);
  for (;;) {
    while (!stopping_ && jobs_.empty()) wake_.wait(mutex_);
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    active_.push_back(&job);
    {
      const MutexUnlock unlocked(mutex_);
      fuse_lowlevel_notify_inval_inode(session_, job.inode.value, 0, 0);
    }
    std::erase(active_, &job);
    if (!job.done) continue;
    if (job.asker == Asker::write) --writes_;
    const MutexUnlock unlocked(mutex_);
    job.done(true);
    job.done = nullptr;  // it may hold the last reference to a file
  }
}

}  // namespace daxfs
