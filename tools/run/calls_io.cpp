// The reads and writes of the program, and fsync().
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tools/run/descriptors.h"
#include "tools/run/real.h"
#include "tools/run/transfer.h"

static_assert(sizeof(off_t) == 8);  // so pread64() is pread()

namespace daxfs::run {
namespace {

iovec piece(const void* buffer, std::size_t length) { return {const_cast<void*>(buffer), length}; }

// Each of them: true if it was done here.
bool at(int fd, bool write, const iovec* iov, int count, off_t offset, ssize_t* result) {
  const Use use(fd, write);
  return use && transfer_at(use, {write, iov, count}, offset, result);
}

bool here(int fd, bool write, const iovec* iov, int count, ssize_t* result) {
  const Use use(fd, write);
  return use && transfer_here(use, fd, {write, iov, count}, result);
}

// RWF_HIPRI asks for nothing that would matter, and the others for what is so anyway.
constexpr int kHarmless = RWF_HIPRI | RWF_DSYNC | RWF_SYNC;

bool with_flags(int fd, bool write, const iovec* iov, int count, off_t offset, int flags,
                ssize_t* result) {
  if ((flags & ~kHarmless) != 0) return false;
  return offset == -1 ? here(fd, write, iov, count, result)
                      : at(fd, write, iov, count, offset, result);
}

// Whether all that was written is durable already.
bool is_durable(int fd) {
  const Use use(fd, true);
  if (!use || use->direct == nullptr) return false;
  const bool durable = client::is_open_for_copies(*use->direct);
  if (counters != nullptr) ++(durable ? counters->fences : counters->fsyncs);
  return durable;
}

}  // namespace
}  // namespace daxfs::run

using namespace daxfs::run;

extern "C" {

ssize_t read(int fd, void* buffer, size_t length) {
  const iovec one = {buffer, length};
  ssize_t result;
  return here(fd, false, &one, 1, &result) ? result : real().read(fd, buffer, length);
}

ssize_t write(int fd, const void* buffer, size_t length) {
  const iovec one = piece(buffer, length);
  ssize_t result;
  return here(fd, true, &one, 1, &result) ? result : real().write(fd, buffer, length);
}

ssize_t readv(int fd, const iovec* iov, int count) {
  ssize_t result;
  return here(fd, false, iov, count, &result) ? result : real().readv(fd, iov, count);
}

ssize_t writev(int fd, const iovec* iov, int count) {
  ssize_t result;
  return here(fd, true, iov, count, &result) ? result : real().writev(fd, iov, count);
}

ssize_t pread(int fd, void* buffer, size_t length, off_t offset) {
  const iovec one = {buffer, length};
  ssize_t result;
  return at(fd, false, &one, 1, offset, &result) ? result
                                                 : real().pread(fd, buffer, length, offset);
}
ssize_t pread64(int, void*, size_t, off64_t) __attribute__((alias("pread")));

ssize_t pwrite(int fd, const void* buffer, size_t length, off_t offset) {
  const iovec one = piece(buffer, length);
  ssize_t result;
  return at(fd, true, &one, 1, offset, &result) ? result
                                                : real().pwrite(fd, buffer, length, offset);
}
ssize_t pwrite64(int, const void*, size_t, off64_t) __attribute__((alias("pwrite")));

ssize_t preadv(int fd, const iovec* iov, int count, off_t offset) {
  ssize_t result;
  return at(fd, false, iov, count, offset, &result) ? result
                                                    : real().preadv(fd, iov, count, offset);
}
ssize_t preadv64(int, const iovec*, int, off64_t) __attribute__((alias("preadv")));

ssize_t pwritev(int fd, const iovec* iov, int count, off_t offset) {
  ssize_t result;
  return at(fd, true, iov, count, offset, &result) ? result
                                                   : real().pwritev(fd, iov, count, offset);
}
ssize_t pwritev64(int, const iovec*, int, off64_t) __attribute__((alias("pwritev")));

ssize_t preadv2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  ssize_t result;
  return with_flags(fd, false, iov, count, offset, flags, &result)
             ? result
             : real().preadv2(fd, iov, count, offset, flags);
}
ssize_t preadv64v2(int, const iovec*, int, off64_t, int) __attribute__((alias("preadv2")));

ssize_t pwritev2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  ssize_t result;
  return with_flags(fd, true, iov, count, offset, flags, &result)
             ? result
             : real().pwritev2(fd, iov, count, offset, flags);
}
ssize_t pwritev64v2(int, const iovec*, int, off64_t, int) __attribute__((alias("pwritev2")));

// What compilers put in place of read() and pread() where they know how long the buffer is.
[[noreturn]] void __chk_fail(void);

ssize_t __read_chk(int fd, void* buffer, size_t length, size_t room) {
  if (length > room) __chk_fail();
  return read(fd, buffer, length);
}

ssize_t __pread_chk(int fd, void* buffer, size_t length, off_t offset, size_t room) {
  if (length > room) __chk_fail();
  return pread(fd, buffer, length, offset);
}
ssize_t __pread64_chk(int, void*, size_t, off64_t, size_t) __attribute__((alias("__pread_chk")));

int fsync(int fd) { return is_durable(fd) ? 0 : real().fsync(fd); }

int fdatasync(int fd) { return is_durable(fd) ? 0 : real().fdatasync(fd); }

}  // extern "C"
