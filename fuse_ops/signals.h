// Ends a session on SIGINT, SIGTERM or SIGHUP.
#pragma once

#include <fuse_lowlevel.h>
#include <pthread.h>

#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

namespace daxfs {

// libfuse's own handlers set a flag and count on having interrupted the main thread's wait: a
// signal that comes just before that wait begins is lost, and the daemon stays. Here a thread takes
// the signals, and goes on interrupting the main thread until its loop has ended.
//
// Construct it on the main thread, before threads are started that would take the signals, and call
// ended() when the loop has returned. The signals stay blocked: a second one must not cut the
// unmount short.
class SignalsEndSession {
 public:
  explicit SignalsEndSession(fuse_session* session);
  ~SignalsEndSession();
  void ended();
  SignalsEndSession(const SignalsEndSession&) = delete;
  SignalsEndSession& operator=(const SignalsEndSession&) = delete;

 private:
  void run();

  fuse_session* const session_;
  const pthread_t main_;
  sigset_t signals_{};
  std::mutex mutex_;  // protects ended_; a leaf lock
  std::condition_variable over_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace daxfs
