// How the last descriptor of a pin was closed: by a process that goes on, or by one that ended.
//
// The kernel does not say who closed it. What can be known is how the processes are that have used
// the descriptor, compared with how they were then.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace daxfs {

// A process when it used a descriptor.
struct ProcessMark {
  pid_t process = 0;  // 0: of another pid namespace
  // As the reader's time namespace shows it; 0: it could not be seen.
  std::uint64_t start_ticks = 0;
  std::uint64_t reaped = 0;  // see ProcessStat
  std::uint64_t image = 0;

  bool same_process(const ProcessMark& other) const {
    return process == other.process && start_ticks == other.start_ticks;
  }
};
ProcessMark mark_process(pid_t process);

enum class Ending : std::uint8_t {
  goes_on,  // it lives, and as far as can be seen nobody else can have closed the descriptor
  // It lives, but executes another program, or a child of it has ended since; or it ended earlier,
  // or cannot be seen.
  in_doubt,
  ending,  // its exit has begun
};
// Asked when the last descriptor has been closed.
Ending how_ends(const ProcessMark& then);

// Whether its exit has begun, or it has ended. True for one that cannot be seen.
bool is_ending(const ProcessMark& then);

// Whether nothing of the process runs any more. False for one that cannot be seen.
bool is_gone(const ProcessMark& then);

}  // namespace daxfs
