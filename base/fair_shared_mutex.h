// A shared mutex that lets a waiting writer in before new readers.
//
// glibc's default read-write lock (and so std::shared_mutex) prefers readers: two overlapping
// streams of reads would hold up a punch for ever. Not recursive: a thread must not take it shared
// twice.
#pragma once

#include <pthread.h>

#include <mutex>

#include "base/mutex.h"
#include "base/require.h"

namespace daxfs {

// As base/mutex.h, checked by clang. Meets the standard's SharedLockable, too.
class ABSL_LOCKABLE FairSharedMutex {
 public:
  FairSharedMutex() {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&lock_, &attributes);
    pthread_rwlockattr_destroy(&attributes);
  }
  ~FairSharedMutex() { pthread_rwlock_destroy(&lock_); }
  FairSharedMutex(const FairSharedMutex&) = delete;
  FairSharedMutex& operator=(const FairSharedMutex&) = delete;

  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { pthread_rwlock_wrlock(&lock_); }
  bool try_lock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    return pthread_rwlock_trywrlock(&lock_) == 0;
  }
  void unlock() ABSL_UNLOCK_FUNCTION() { pthread_rwlock_unlock(&lock_); }
  void lock_shared() ABSL_SHARED_LOCK_FUNCTION() { pthread_rwlock_rdlock(&lock_); }
  bool try_lock_shared() ABSL_SHARED_TRYLOCK_FUNCTION(true) {
    return pthread_rwlock_tryrdlock(&lock_) == 0;
  }
  void unlock_shared() ABSL_UNLOCK_FUNCTION() { pthread_rwlock_unlock(&lock_); }

  // For the compiler, where it cannot see that it is held. Builds with expensive checks look
  // whether anybody holds it.
  void assert_held() const ABSL_ASSERT_EXCLUSIVE_LOCK() {
    DAXFS_REQUIRE_EXPENSIVE(pthread_rwlock_tryrdlock(&lock_) != 0, "a lock is not held");
  }
  void assert_held_shared() const ABSL_ASSERT_SHARED_LOCK() {
    DAXFS_REQUIRE_EXPENSIVE(pthread_rwlock_trywrlock(&lock_) != 0, "a lock is not held");
  }

 private:
  mutable pthread_rwlock_t lock_;
};

// Holds it exclusively for the rest of its scope.
class ABSL_SCOPED_LOCKABLE WriterLock {
 public:
  explicit WriterLock(FairSharedMutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.lock();
  }
  // It is held already.
  WriterLock(FairSharedMutex& mutex, std::adopt_lock_t) REQUIRES(mutex) : mutex_(mutex) {}
  ~WriterLock() ABSL_UNLOCK_FUNCTION() {
    if (held_) mutex_.unlock();
  }
  // Earlier than at the end of the scope; once.
  void unlock() ABSL_UNLOCK_FUNCTION() {
    held_ = false;
    mutex_.unlock();
  }
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;

 private:
  FairSharedMutex& mutex_;
  bool held_ = true;
};

// Holds it shared for the rest of its scope.
class ABSL_SCOPED_LOCKABLE ReaderLock {
 public:
  explicit ReaderLock(FairSharedMutex& mutex) ABSL_SHARED_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.lock_shared();
  }
  ~ReaderLock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock_shared(); }
  ReaderLock(const ReaderLock&) = delete;
  ReaderLock& operator=(const ReaderLock&) = delete;

 private:
  FairSharedMutex& mutex_;
};

}  // namespace daxfs
