// How the library walks an answer that is longer than one ioctl can carry.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

#include "client/daxfs.h"

namespace daxfs::client {

// Calls visit(extent) for every extent of the answer, call by call. 0, or -1 with errno (visit's,
// if it returns false). EIO if the answer contradicts itself: it comes from another process.
template <class Visit>
int for_each_extent(int fd, unsigned long request, std::uint64_t pin_id, std::uint64_t offset,
                    std::uint64_t length, Visit visit) {
  daxfs_extents_args args;
  args.pin_id = pin_id;
  args.offset = offset;
  args.length = length;
  args.cursor = 0;
  for (;;) {
    const std::uint64_t asked_from = args.cursor;
    args.count = 0;
    args.more = 0;
    if (ioctl(fd, request, &args) < 0) return -1;
    if (args.count > DAXFS_EXTENTS_PER_CALL || (args.more != 0 && args.cursor == asked_from)) {
      errno = EIO;
      return -1;
    }
    for (std::uint32_t i = 0; i < args.count; ++i) {
      if (!visit(args.extents[i])) return -1;
    }
    if (args.more == 0) return 0;
  }
}

}  // namespace daxfs::client
