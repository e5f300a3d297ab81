#include "fuse_ops/notifier.h"

#include <linux/fuse.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
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

// Where nothing can be read.
void* unreadable_byte() {
  static void* const page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return page;
}

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

void Notifier::invalidate_data(InodeNumber inode, Dropped done, Asker asker, End end) {
  {
    const MutexLock guard(mutex_);
    if (const auto waiting = waiting_.find(inode); waiting != waiting_.end()) {
      waiting->second.stale = true;
      if (end) waiting->second.end = std::move(end);
    } else if (!stopping_) {
      const bool write = asker == Asker::write;
      const bool waits = done && !all_stuck() && (!write || writes_ < kMostWrites);
      jobs_.push_back(
          {inode, waits ? std::exchange(done, nullptr) : nullptr, asker, std::move(end)});
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
      if (job.end) waiting.end = std::move(job.end);
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
    if (waiting->second.stale && !stopping_) {
      jobs_.push_back({inode, nullptr, Asker::other, std::move(waiting->second.end)});
    }
    waiting_.erase(waiting);
  }
  wake_.notify_one();
}

// The kernel takes a new size from no answer when it keeps writes, but from a NOTIFY_STORE of bytes
// behind its end. It must not have bytes, which it could have newer already: it looks at the size
// first, and then finds that these cannot be read.
void Notifier::tell_end(InodeNumber inode, std::uint64_t end) {
  if (end == 0) return;
  struct {
    fuse_out_header header;
    fuse_notify_store_out store;
  } message{};
  message.header = {.len = sizeof message + 1, .error = FUSE_NOTIFY_STORE, .unique = 0};
  message.store = {.nodeid = inode.value, .offset = end - 1, .size = 1, .padding = 0};
  std::array<iovec, 2> parts{iovec{&message, sizeof message}, iovec{unreadable_byte(), 1}};
  if (writev(fuse_session_fd(session_), parts.data(), parts.size()) >= 0 || errno == EFAULT) return;
  // It does not know the file any more, or is gone itself.
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
      if (job.end) tell_end(job.inode, job.end());
      job.end = nullptr;  // as below
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
