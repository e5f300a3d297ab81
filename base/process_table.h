// The process of a request: FUSE names a thread, but people and owners of pins mean processes.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "base/mutex.h"
#include "base/process_end.h"
#include "base/process_identity.h"
#include "base/unique_fd.h"

namespace daxfs {

// The process (thread group) of a thread; the thread's own id if it is gone already. Reads /proc.
pid_t process_of_thread(pid_t thread);

// Remembers who is who, because asking /proc costs microseconds a call. What is remembered is
// checked against the kernel at each use, so that a number that was reused is never its former
// owner's. Thread-safe.
class ProcessTable {
 public:
  // process_of_thread(). Lock-free.
  pid_t process(pid_t thread);
  struct Identity {
    PinOwner owner;    // who it is, as far as that can be told (describe_holder()); without a user
    ProcessMark mark;  // how it is, for the end of its pins; at most a second old
  };
  Identity identity(pid_t process);
  PinOwner owner(pid_t process, uid_t uid);

 private:
  struct Known {
    Identity identity;
    UniqueFd pidfd;          // says when it has ended
    std::int64_t until = 0;  // second
  };
  Mutex mutex_;  // a leaf lock
  absl::flat_hash_map<pid_t, Known> known_ GUARDED_BY(mutex_);

  // One word: thread id, process id (32 bits each).
  std::array<std::atomic<std::uint64_t>, 256> slots_{};
};

}  // namespace daxfs
