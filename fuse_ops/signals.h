// Ends a session on SIGINT, SIGTERM or SIGHUP.
#pragma once

#include <fuse_lowlevel.h>
#include <pthread.h>

#include <csignal>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace daxfs {

// libfuse's own handlers set a flag and count on having interrupted the main thread's wait: a
// signal that comes just before that wait begins is lost, and the daemon stays. Here a thread takes
// the signals, and goes on interrupting the main thread until its loop has ended.
//
// `before_exit` is called, on that thread, before workers are told to leave: for what needs them.
//
// Construct it on the main thread, before threads are started that would take the signals, and call
// ended() when the loop has returned; it waits for a `before_exit` that is under way. The signals
// stay blocked: a second one must not cut the unmount short.
class SignalsEndSession {
 public:
  SignalsEndSession(fuse_session* session, std::function<void()> before_exit);
  ~SignalsEndSession();
  void ended();
  SignalsEndSession(const SignalsEndSession&) = delete;
  SignalsEndSession& operator=(const SignalsEndSession&) = delete;

 private:
  void run();

  fuse_session* const session_;
  const std::function<void()> before_exit_;
  const pthread_t main_;
  sigset_t signals_{};
  Mutex mutex_;  // is held during before_exit_
  Condition over_;
  bool ended_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace daxfs
