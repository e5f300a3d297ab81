// Ends a session on SIGINT, SIGTERM or SIGHUP.
#pragma once

#include <pthread.h>

#include <csignal>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace daxfs {

// libfuse's own handlers set a flag and count on having interrupted the main thread's wait: a
// signal that comes just before that wait begins is lost, and the daemon stays. Here a thread takes
// the signals. On it `before_exit` is called, for what needs the workers, and then `exit`, which
// ends the session's loop.
//
// Construct it on the main thread, before threads are started that would take the signals, and call
// ended() when the loop has returned; it waits for a `before_exit` that is under way. The signals
// stay blocked: a second one must not cut the unmount short.
class SignalsEndSession {
 public:
  SignalsEndSession(std::function<void()> before_exit, std::function<void()> exit);
  ~SignalsEndSession();
  void ended();
  SignalsEndSession(const SignalsEndSession&) = delete;
  SignalsEndSession& operator=(const SignalsEndSession&) = delete;

 private:
  void run();

  const std::function<void()> before_exit_;
  const std::function<void()> exit_;
  sigset_t signals_{};
  Mutex mutex_;  // is held during before_exit_
  bool ended_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace daxfs
