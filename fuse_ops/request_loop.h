// The threads that read requests and serve them.
//
// It is ours and not libfuse's (fuse_session_loop_mt) because each request is looked at before
// libfuse has it (wire.h), and libfuse offers that only where it is built with custom I/O. FUSE
// over io_uring, where libfuse reads by itself, would be another loop beside this one.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "fuse_ops/wire.h"

namespace daxfs {

// What one WRITE may carry: also what the kernel allows a request to have (256 pages).
inline constexpr unsigned kMaxWriteBytes = 1 << 20;

class RequestLoop {
 public:
  struct Hooks {
    // Requests that libfuse does not know (AnswerBeyond).
    std::function<bool(const Message&)> beyond = [](const Message&) { return false; };
    // Called once, on a worker: the kernel has the answer to INIT, and what is negotiated is in
    // force.
    std::function<void()> after_init = [] {};
  };
  RequestLoop(fuse_session* session, Hooks hooks);
  RequestLoop(const RequestLoop&) = delete;
  RequestLoop& operator=(const RequestLoop&) = delete;

  // Serves until an unmount or stop(). Then no worker is left, and every request that one has read
  // has been handed to its handler. Call once. 0, or what ended it: EAGAIN if no thread can be
  // started.
  int run();
  // From any thread, at any time.
  void stop();

 private:
  // A thread more than what is at work is always waiting for the next request, up to so many:
  // libfuse's own figure.
  static constexpr unsigned kMostWorkers = 10;

  bool start_worker() EXCLUDES(mutex_);
  void work();
  // Ends the loop, with this outcome if it is the first.
  void end(int error);

  fuse_session* const session_;
  const Hooks hooks_;
  // Workers that wait for a request, or will in a moment.
  std::atomic<int> idle_ = 0;
  std::atomic<unsigned> started_ = 0;
  std::atomic<bool> stopped_ = false;
  Mutex mutex_;  // nothing else is locked while it is held
  Condition over_;
  bool ended_ GUARDED_BY(mutex_) = false;
  bool warned_ GUARDED_BY(mutex_) = false;  // that no more threads can be had
  int error_ GUARDED_BY(mutex_) = 0;
  std::vector<std::thread> workers_ GUARDED_BY(mutex_);
};

}  // namespace daxfs
