// Who is behind a request: FUSE names the thread, people and owners are processes.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace daxfs {

// The process (thread group) of a thread; the thread's own id if it is gone already. Reads /proc.
pid_t process_of_thread(pid_t thread);
// The command name of a process, "" if it is gone.
std::string command_of(pid_t process);

// Remembers answers of process_of_thread(), because it costs a few microseconds a call. Entries are
// checked against nothing: a thread id that was reused within the cache's life can give the former
// owner's process, so entries live one second at most. Thread-safe, lock-free.
class ProcessTable {
 public:
  pid_t process(pid_t thread);

 private:
  // One word: thread id (22 bits), process id (22 bits), second (20 bits).
  std::array<std::atomic<std::uint64_t>, 256> slots_{};
};

}  // namespace daxfs
