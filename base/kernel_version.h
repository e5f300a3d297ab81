// Which kernel this machine runs, for the few places where kernels differ and do not say so.
#pragma once

#include <sys/utsname.h>

#include <cstdio>

namespace daxfs {

// False if it does not tell.
inline bool kernel_is_at_least(unsigned major, unsigned minor) {
  utsname name{};
  unsigned has_major = 0, has_minor = 0;
  uname(&name);
  if (std::sscanf(name.release, "%u.%u", &has_major, &has_minor) != 2) return false;
  return has_major > major || (has_major == major && has_minor >= minor);
}

}  // namespace daxfs
