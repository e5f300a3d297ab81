// libdaxfs: taking pins, giving them back, listing extents. C linkage, no C++ runtime needed.
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "client/daxfs.h"
#include "client/paging.h"

namespace {

ssize_t list(int fd, unsigned long request, std::uint64_t pin_id, std::uint64_t offset,
             std::uint64_t length, daxfs_extent* out, std::size_t capacity) {
  std::size_t count = 0;
  const auto keep = [&](const daxfs_extent& extent) {
    if (count < capacity) out[count] = extent;
    ++count;
    return true;
  };
  if (daxfs::client::for_each_extent(fd, request, pin_id, offset, length, keep) < 0) return -1;
  return static_cast<ssize_t>(count);
}

}  // namespace

int daxfs_pin(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t flags,
              std::uint64_t* pin_id) {
  if (pin_id == nullptr) {
    errno = EINVAL;
    return -1;
  }
  daxfs_pin_args args = {};
  args.offset = offset;
  args.length = length;
  args.flags = flags;
  if (ioctl(fd, DAXFS_IOC_PIN, &args) < 0) return -1;
  *pin_id = args.pin_id;
  // The file may be longer now. The kernel is to know before somebody appends to it, or he would
  // write where he believes its end to be.
  if (struct stat status{}; (flags & DAXFS_PIN_ALLOCATE) != 0)
    static_cast<void>(fstat(fd, &status));
  return 0;
}

int daxfs_unpin(int fd, std::uint64_t pin_id) {
  daxfs_unpin_args args = {};
  args.pin_id = pin_id;
  return ioctl(fd, DAXFS_IOC_UNPIN, &args) < 0 ? -1 : 0;
}

int daxfs_adopt(int fd, std::uint64_t pin_id) {
  daxfs_unpin_args args = {};
  args.pin_id = pin_id;
  return ioctl(fd, DAXFS_IOC_ADOPT, &args) < 0 ? -1 : 0;
}

ssize_t daxfs_pin_extents(int fd, std::uint64_t pin_id, daxfs_extent* out, std::size_t capacity) {
  return list(fd, DAXFS_IOC_PIN_EXTENTS, pin_id, 0, 0, out, capacity);
}

ssize_t daxfs_extents(int fd, std::uint64_t offset, std::uint64_t length, daxfs_extent* out,
                      std::size_t capacity) {
  return list(fd, DAXFS_IOC_EXTENTS, 0, offset, length, out, capacity);
}
