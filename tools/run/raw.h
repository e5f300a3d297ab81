// System calls by hand: for the library's own needs, which must not meet its own functions again,
// and are no cancellation points. As with libc's, -1 and errno.
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstddef>

namespace daxfs::run::raw {

inline int close(int fd) { return static_cast<int>(syscall(SYS_close, fd)); }
inline int fcntl(int fd, int command, long argument = 0) {
  return static_cast<int>(syscall(SYS_fcntl, fd, command, argument));
}
// Without a file.
inline long mmap(void* address, std::size_t length, int protection, int flags, off_t offset) {
  return syscall(SYS_mmap, address, length, protection, flags, -1, offset);
}
inline off_t lseek(int fd, off_t offset, int whence) {
  return syscall(SYS_lseek, fd, offset, whence);
}
inline ssize_t preadv(int fd, const iovec* iov, int count, off_t offset) {
  if (count == 1) return syscall(SYS_pread64, fd, iov->iov_base, iov->iov_len, offset);
  return syscall(SYS_preadv, fd, iov, static_cast<long>(count), offset, 0L);
}
inline ssize_t pwritev(int fd, const iovec* iov, int count, off_t offset) {
  if (count == 1) return syscall(SYS_pwrite64, fd, iov->iov_base, iov->iov_len, offset);
  return syscall(SYS_pwritev, fd, iov, static_cast<long>(count), offset, 0L);
}

}  // namespace daxfs::run::raw
