// Mutexes whose use clang checks while it compiles (tools/lint): what a mutex guards says so with
// GUARDED_BY, a function that expects it held with REQUIRES, one that takes it with EXCLUDES. They
// are the standard's, which libstdc++ has not annotated, and cost what those cost.
#pragma once

#include <absl/base/thread_annotations.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

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
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  // For the compiler, where it cannot see that the mutex is held: in a lambda that is called under
  // it.
  void assert_held() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

 private:
  friend class Condition;
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
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  void wait_until(Mutex& mutex, std::chrono::steady_clock::time_point until) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait_until(lock, until);
    lock.release();
  }
  void wait_for(Mutex& mutex, std::chrono::milliseconds time) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait_for(lock, time);
    lock.release();
  }

 private:
  std::condition_variable condition_;
};

}  // namespace daxfs
