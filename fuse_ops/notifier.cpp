#include "fuse_ops/notifier.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "lease/background_thread.h"

namespace daxfs {
namespace {

// A thread drops the pages of one inode, and waits for its truncate. When this many inodes keep a
// thread, the next one queues until one of them has finished.
constexpr std::size_t kMostThreads = 8;
// Half of the kernel's places for background requests (max_background in session.cpp).
constexpr std::size_t kMostReplies = 32;

}  // namespace

Notifier::Notifier(fuse_session* session, ops::Pollers& pollers)
    : session_(session), pollers_(pollers) {
  threads_.reserve(kMostThreads);
  const std::lock_guard guard(mutex_);
  start_thread();
}

Notifier::~Notifier() { finish(); }

void Notifier::finish() {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  // Nobody adds one from now on.
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Notifier::start_thread() {
  threads_.push_back(background_thread("daxfs-notifier", [this] { run(); }));
}

bool Notifier::all_stuck() const {
  const auto is_stuck = [this](const Job* job) { return waiting_.contains(job->inode); };
  return active_.size() == threads_.size() && std::ranges::all_of(active_, is_stuck);
}

void Notifier::invalidate_attributes(InodeNumber inode) {
  // A negative offset means: attributes only. ENOENT (the kernel does not know the inode) is as
  // good as done.
  fuse_lowlevel_notify_inval_inode(session_, inode.value, -1, 0);
}

void Notifier::invalidate_data(InodeNumber inode, std::function<void()> done) {
  {
    const std::lock_guard guard(mutex_);
    if (const auto waiting = waiting_.find(inode); waiting != waiting_.end()) {
      waiting->second.stale = true;
    } else if (!stopping_) {
      const bool waits = done && replies_ < kMostReplies && !all_stuck();
      jobs_.push_back({inode, waits ? std::exchange(done, nullptr) : nullptr});
      if (waits) ++replies_;
    }
  }
  wake_.notify_one();
  if (done) done();
}

void Notifier::truncate_waits(InodeNumber inode) {
  std::vector<std::function<void()>> answered;
  {
    const std::lock_guard guard(mutex_);
    Waiting& waiting = waiting_[inode];
    ++waiting.truncates;
    const auto answer = [&](Job& job) {
      if (!job.done) return;
      answered.push_back(std::exchange(job.done, nullptr));
      --replies_;
    };
    std::erase_if(jobs_, [&](Job& job) {
      if (job.inode != inode) return false;
      waiting.stale = true;
      answer(job);
      return true;
    });
    for (Job* job : active_) {
      if (job->inode == inode) answer(*job);
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
    // Of other files; whoever waits for them may be whom the truncate waits for.
    if (all_stuck()) std::ranges::for_each(jobs_, answer);
  }
  for (const auto& done : answered) done();
}

void Notifier::truncate_ends(InodeNumber inode) {
  {
    const std::lock_guard guard(mutex_);
    const auto waiting = waiting_.find(inode);
    if (--waiting->second.truncates > 0) return;
    if (waiting->second.stale && !stopping_) jobs_.push_back({inode, nullptr});
    waiting_.erase(waiting);
  }
  wake_.notify_one();
}

void Notifier::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    active_.push_back(&job);
    lock.unlock();
    fuse_lowlevel_notify_inval_inode(session_, job.inode.value, 0, 0);
    lock.lock();
    std::erase(active_, &job);
    if (!job.done) continue;
    --replies_;
    lock.unlock();
    job.done();
    lock.lock();
  }
}

}  // namespace daxfs
