// Threads that work behind the scenes.
#pragma once

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace daxfs {

// While there is one the thread takes no signals, nor do threads that it starts, but for those that
// say what it has just done: a SIGBUS of memory without storage that was blocked would end the
// process (blockmap/medium/lost_pages.h).
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

// Starts a thread that takes no signals: the daemon's are for its main thread, and one that another
// thread took would not end the main thread's waiting. `name` has at most 15 characters.
// std::system_error: no more threads can be had.
template <class Work>
std::thread background_thread(const char* name, Work work) {
  const SignalsBlocked blocked;
  std::thread thread(std::move(work));
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace daxfs
