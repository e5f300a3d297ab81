// libdaxfs: layout leases, and what their holders are told. C linkage, no C++ runtime needed.
#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

#include "client/daxfs.h"

int daxfs_lease(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t flags,
                std::uint64_t* lease_id) {
  if (lease_id == nullptr) {
    errno = EINVAL;
    return -1;
  }
  daxfs_lease_args args = {};
  args.offset = offset;
  args.length = length;
  args.flags = flags;
  if ((flags & DAXFS_LEASE_SHRINK) != 0) args.lease_id = *lease_id;
  if (ioctl(fd, DAXFS_IOC_LEASE, &args) < 0) return -1;
  *lease_id = args.lease_id;
  return 0;
}

int daxfs_unlease(int fd, std::uint64_t lease_id) {
  daxfs_unlease_args args = {};
  args.lease_id = lease_id;
  return ioctl(fd, DAXFS_IOC_UNLEASE, &args) < 0 ? -1 : 0;
}

int daxfs_next_event(int fd, daxfs_event* out) {
  if (out == nullptr) {
    errno = EINVAL;
    return -1;
  }
  return ioctl(fd, DAXFS_IOC_NEXT_EVENT, out) < 0 ? -1 : 0;
}
