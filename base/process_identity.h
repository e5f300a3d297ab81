// Telling a process apart from all others, also from a later one with the same number.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/pin_owner.h"
#include "base/result.h"

namespace daxfs {

// Of the running kernel.
Result<std::array<std::byte, 16>> boot_id();

// The inode number of this process's pid namespace; 0 where that cannot be told (no /proc).
std::uint32_t own_pid_namespace();

// When a living process started, in clock ticks since boot, as the initial time namespace counts.
// ESRCH if there is none with this number or it is a zombie; EACCES where that cannot be told: a
// hidden process, a /proc of another pid namespace, an odd clock.
Result<std::uint64_t> process_start_time(pid_t process);

// The identity of a living process, for a record. ESRCH, EACCES as above.
Result<PinOwner> identify_process(pid_t process, uid_t uid);
// Whatever can be said of a holder, for a record. In the worst case that is nothing but the boot.
PinOwner describe_holder(pid_t process, uid_t uid);

enum class Life : std::uint8_t {
  alive,
  dead,
  unknown,  // it cannot be seen from here
};
struct Judgement {
  Life life = Life::unknown;
  pid_t process = 0;  // of an owner that is alive: its number here; 0: has none
};
// Whether the very process still lives. It is looked for by its number and its start; in another
// pid namespace, by who may see all of these: a process of the initial one.
Judgement judge(const PinOwner& owner);

// A thread of the kernel's: nothing interrupts it, and nobody kills it.
bool is_kernel_thread(pid_t process);

// Whether it may still live. Where that cannot be told, it counts as alive: a block kept too long
// is better than one given away too early.
bool is_alive(const PinOwner& owner);

}  // namespace daxfs
