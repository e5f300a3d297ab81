// The process of a request: FUSE names a thread, but people and owners of pins mean processes.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "blockmap/process_identity.h"
#include "blockmap/result.h"

namespace daxfs {

// The process (thread group) of a thread; the thread's own id if it is gone already. Reads /proc.
pid_t process_of_thread(pid_t thread);
// The command name of a process, "" if it is gone.
std::string command_of(pid_t process);

// Remembers who is who, because asking /proc costs microseconds a call. Entries are checked against
// nothing: a number that was reused within the cache's life can give the former owner's answer, so
// entries live one second at most. Thread-safe.
class ProcessTable {
 public:
  // process_of_thread(). Lock-free.
  pid_t process(pid_t thread);
  // Who it is, as far as that can be told, for what has to outlive the daemon (describe_holder()).
  PinOwner owner(pid_t process, uid_t uid);

 private:
  struct Known {
    PinOwner owner;
    std::int64_t until = 0;  // second
  };
  std::mutex mutex_;  // protects owners_; a leaf lock
  absl::flat_hash_map<pid_t, Known> owners_;

  // One word: thread id (22 bits), process id (22 bits), second (20 bits).
  std::array<std::atomic<std::uint64_t>, 256> slots_{};
};

}  // namespace daxfs
