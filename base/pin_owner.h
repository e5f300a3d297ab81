// Whose a long-term pin is, on the medium and in /proc.
#pragma once

#include <sys/types.h>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace daxfs {

// A process, told apart from all others of all boots (see process_identity.h).
struct PinOwner {
  pid_t process = 0;  // 0: the daemon could not name it, such as one outside its pid namespace
  // Clock ticks since boot, as the initial time namespace shows them; 0: unknown.
  std::uint64_t start_time = 0;
  std::array<std::byte, 16> boot{};
  uid_t uid = 0;
  // The pid namespace in which `process` counts: its inode number, unique while it lives. 0: the
  // reader's own.
  std::uint32_t pid_namespace = 0;

  auto operator<=>(const PinOwner&) const = default;
};

// Whether the owner of a record may still live. Asked once for each owner.
using OwnerAlive = std::function<bool(const PinOwner&)>;

}  // namespace daxfs
