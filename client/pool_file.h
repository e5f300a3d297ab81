// libdaxfs: finding and opening the pool with the caller's own rights.
#pragma once

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "client/daxfs.h"

namespace daxfs::client {

inline constexpr std::uint64_t kHugePage = 2u << 20;
inline constexpr std::uint64_t kLargestStep = 1u << 30;  // device DAX: 4 KiB, 2 MiB or 1 GiB
// Bytes of the pool that stand for pins, as locks; blockmap/pin_lock.h knows the same place.
inline constexpr std::uint64_t kPinLocks = 1ull << 62;
inline constexpr std::uint64_t kAttachProofs = kPinLocks + (1ull << 61);

constexpr std::uint64_t round_down(std::uint64_t n, std::uint64_t step) { return n & ~(step - 1); }
constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t step) {
  return round_down(n + step - 1, step);
}

// Releases what a failed call had taken without losing the errno that says why it failed.
class KeepErrno {
 public:
  KeepErrno() : saved_(errno) {}
  ~KeepErrno() { errno = saved_; }
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;

 private:
  int saved_;
};

inline std::uint64_t page_size() { return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }

// mmap's offsets, lengths and addresses on this pool are multiples of it; 0 with errno if the
// daemon does not say.
inline std::uint64_t mapping_step(int fd, daxfs_pool_args* pool) {
  if (ioctl(fd, DAXFS_IOC_POOL, pool) < 0) return 0;
  const std::uint64_t step = std::max(pool->map_alignment, page_size());
  if ((step & (step - 1)) != 0 || step > kLargestStep ||
      std::memchr(pool->path, 0, sizeof pool->path) == nullptr) {
    errno = EIO;
    return 0;
  }
  return step;
}

// ESTALE if it is another file than the daemon's.
inline bool is_pool(int fd, const daxfs_pool_args& pool, struct stat* status) {
  if (fstat(fd, status) != 0) return false;
  if (status->st_dev == pool.device && status->st_ino == pool.inode) return true;
  errno = ESTALE;
  return false;
}

// A descriptor, or -1.
inline int open_pool_at(const char* path, const daxfs_pool_args& pool, bool writable,
                        struct stat* status) {
  // O_NONBLOCK: if something else is at that path by now, looking at it must not block.
  const int mode = writable ? O_RDWR : O_RDONLY;
  const int fd = ::open(path, mode | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0 || is_pool(fd, pool, status)) return fd;
  const KeepErrno keep;
  close(fd);
  return -1;
}

inline int find_pool(const daxfs_pool_args& pool, bool writable, struct stat* status) {
  const int fd = open_pool_at(pool.path, pool, writable, status);
  if (fd >= 0) return fd;
  // In a container it may lie elsewhere.
  const char* const elsewhere = secure_getenv("DAXFS_POOL");
  if (elsewhere == nullptr || *elsewhere == 0) return -1;
  return open_pool_at(elsewhere, pool, writable, status);
}

// A lock of the open file, which the kernel keeps until its last mapping has gone.
inline bool lock_byte(int fd, short type, std::uint64_t byte) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

}  // namespace daxfs::client
