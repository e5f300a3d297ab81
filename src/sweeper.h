// What has to be looked at again, as nobody tells when it is over: soon at first, then ever more
// seldom.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace daxfs {

// Thread-safe. Has a thread of its own, which sleeps while there is nothing to look at.
class Sweeper {
 public:
  // Looks once. Whether there is nothing left to look at. Called on the thread, without any lock.
  using Look = std::function<bool()>;

  explicit Sweeper(Look look);
  ~Sweeper();  // stop()
  Sweeper(const Sweeper&) = delete;
  Sweeper& operator=(const Sweeper&) = delete;

  // There is something new.
  void begin();
  // No look is running, and none follows. Idempotent; not from a look.
  void stop();

 private:
  void run();

  const Look look_;
  Mutex mutex_;  // a leaf lock
  Condition attention_;
  std::chrono::milliseconds pause_ GUARDED_BY(mutex_){};
  bool any_ GUARDED_BY(mutex_) = false;
  bool news_ GUARDED_BY(mutex_) = false;  // something has come since the last look began
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace daxfs
