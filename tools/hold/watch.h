// What can end a holder's pause: a signal to stop, news of its leases, the death of its daemon.
#pragma once

#include <chrono>

#include "base/unique_fd.h"

namespace daxfs::hold {

// SIGINT and SIGTERM are blocked from construction on, and received only here. Not thread-safe.
class Watch {
 public:
  Watch();

  // Watches this file from now on. It is no longer watched when its last descriptor is closed.
  void add(int file);

  struct Seen {
    bool stop = false;         // a signal has come; once true, always true
    bool news = false;         // daxfs_next_event() has something to tell
    bool daemon_gone = false;  // the file is dead
  };
  Seen wait(std::chrono::milliseconds at_most);

 private:
  UniqueFd signals_;
  UniqueFd epoll_;
};

}  // namespace daxfs::hold
