// For the first line of main().
#pragma once

#include <fcntl.h>

namespace daxfs {

// A program can be started with its standard streams closed (`>&-`). The next file that it opens
// would be one of them, and what it says would be written into a pool.
inline void occupy_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
}

}  // namespace daxfs
