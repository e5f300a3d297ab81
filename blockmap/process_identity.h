// Telling a process apart from all others, also from a later one with the same number.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "blockmap/pin_records.h"
#include "blockmap/result.h"

namespace daxfs {

// Of the running kernel.
Result<std::array<std::byte, 16>> boot_id();

// When a living process started, in clock ticks since boot. ESRCH if there is none with this number
// or it is a zombie.
Result<std::uint64_t> process_start_time(pid_t process);

// The identity of a living process, for a record. ESRCH as above.
Result<PinOwner> identify_process(pid_t process, uid_t uid);

// Whether the process that did something at `last` is ending (its exit has begun), has ended, or
// cannot be judged from here (0: a process of another pid namespace). False: it lives and goes on.
bool is_ending(pid_t process, std::chrono::system_clock::time_point last);

// Whether the very process still lives. Where that cannot be told (no /proc), it counts as alive: a
// block kept too long is better than one given away too early.
bool is_alive(const PinOwner& owner);

}  // namespace daxfs
