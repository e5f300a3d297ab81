// Threads that work behind the scenes.
#pragma once

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace daxfs {

// Starts a thread that takes no signals: the daemon's are for its main thread, and one that another
// thread took would not end the main thread's waiting. `name` has at most 15 characters.
template <class Work>
std::thread background_thread(const char* name, Work work) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(work));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace daxfs
