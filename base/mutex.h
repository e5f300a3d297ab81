// Mutexes whose use clang checks while it compiles (tools/lint): what a mutex guards says so with
// GUARDED_BY, a function that expects it held with REQUIRES, one that takes it with EXCLUDES. They
// are the standard's, which libstdc++ has not annotated, and cost what those cost.
#pragma once

#include <absl/base/thread_annotations.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/require.h"

// The names of clang's documentation; nothing for GCC.
#ifndef GUARDED_BY  // some versions of Abseil have it, with the same meaning
#define GUARDED_BY(mutex) ABSL_GUARDED_BY(mutex)
#endif
#define REQUIRES(mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex)
#define REQUIRES_SHARED(mutex) ABSL_SHARED_LOCKS_REQUIRED(mutex)
#define EXCLUDES(mutex) ABSL_LOCKS_EXCLUDED(mutex)
#ifdef __clang__
#define RELEASES(mutex) __attribute__((release_capability(mutex)))  // Abseil has no word for it
#define REACQUIRES() __attribute__((release_capability()))
#else
#define RELEASES(mutex)
#define REACQUIRES()
#endif

namespace daxfs {

class ABSL_LOCKABLE Mutex {
 public:
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_.lock();
    note_held(true);
  }
  void unlock() ABSL_UNLOCK_FUNCTION() {
    note_held(false);
    mutex_.unlock();
  }
  // For the compiler, where it cannot see that the mutex is held: in a lambda that is called under
  // it. Builds with expensive checks look.
  void assert_held() const ABSL_ASSERT_EXCLUSIVE_LOCK() {
    DAXFS_REQUIRE_EXPENSIVE(owner_ == std::this_thread::get_id(), "a mutex is not held");
  }

 private:
  friend class Condition;
#ifdef DAXFS_EXPENSIVE_CHECKS
  void note_held(bool held) { owner_ = held ? std::this_thread::get_id() : std::thread::id(); }
  std::atomic<std::thread::id> owner_;
#else
  void note_held(bool) {}
#endif
  std::mutex mutex_;
};

// Holds a mutex for the rest of its scope.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Lets go of a mutex that is held, for the rest of its scope.
class ABSL_SCOPED_LOCKABLE MutexUnlock {
 public:
  explicit MutexUnlock(Mutex& mutex) RELEASES(mutex) : mutex_(mutex) { mutex_.unlock(); }
  ~MutexUnlock() REACQUIRES() { mutex_.lock(); }
  MutexUnlock(const MutexUnlock&) = delete;
  MutexUnlock& operator=(const MutexUnlock&) = delete;

 private:
  Mutex& mutex_;
};

// To wait, with the mutex let go meanwhile, until another thread notifies; it may wake without
// that.
class Condition {
 public:
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }
  void wait(Mutex& mutex) REQUIRES(mutex) {
    release(mutex, [this](auto& lock) { condition_.wait(lock); });
  }
  void wait_until(Mutex& mutex, std::chrono::steady_clock::time_point until) REQUIRES(mutex) {
    release(mutex, [this, until](auto& lock) { condition_.wait_until(lock, until); });
  }
  void wait_for(Mutex& mutex, std::chrono::milliseconds time) REQUIRES(mutex) {
    release(mutex, [this, time](auto& lock) { condition_.wait_for(lock, time); });
  }

 private:
  template <class Wait>
  static void release(Mutex& mutex, Wait wait) {
    mutex.note_held(false);
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    wait(lock);
    lock.release();
    mutex.note_held(true);
  }

  std::condition_variable condition_;
};

}  // namespace daxfs
