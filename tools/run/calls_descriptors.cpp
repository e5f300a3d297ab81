// How descriptors of the program come and go.
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS
#include <errno.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>

#include "tools/run/descriptors.h"
#include "tools/run/raw.h"
#include "tools/run/real.h"

namespace daxfs::run {
namespace {

bool has_mode(int flags) { return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

int opened(int fd, int flags) {
  if (fd >= 0) note_open(fd, flags);
  return fd;
}

int copied(int fd, int copy) {
  if (copy >= 0) note_copy(fd, copy);
  return copy;
}

bool is_attached(int fd) {
  const std::atomic<Word>* const word = word_of(fd);
  return word != nullptr && is_opened(word->load(std::memory_order_relaxed));
}

// All that share an open file description share its flags.
void look_at_flags() {
  const int last = highest.load(std::memory_order_relaxed);
  for (int fd = 0; fd <= last; ++fd) {
    if (!is_attached(fd)) continue;
    const Use use(fd, true);
    const int flags = raw::fcntl(fd, F_GETFL);
    if (use && flags >= 0) use->appends = (flags & O_APPEND) != 0;
  }
}

// Whether the number is free: the file that the library has there is not attached any more.
bool give_up(int own) {
  if (!may_close_own() || is_in_parents_memory()) return false;
  const int last = highest.load(std::memory_order_relaxed);
  for (int fd = 0; fd <= last; ++fd) {
    const std::atomic<Word>& word = *word_of(fd);
    const Word here = word.load(std::memory_order_acquire);
    if (is_opened(here) && opened_of(here)->own == own) end(forget(fd));
  }
  return !is_own(own);
}

// What dup2() and dup3() close. False: it cannot be had.
bool make_room(int fd, int copy) {
  if (fd == copy || raw::fcntl(fd, F_GETFD) < 0) return true;  // nothing will be closed
  if (is_own(copy) && !give_up(copy)) {
    errno = EBUSY;
    return false;
  }
  if (is_attached(copy) && is_in_parents_memory()) return true;
  end(forget(copy));
  return true;
}

// Of the library's descriptors in [first, last] the lowest, or -1.
int own_between(int first, int last) {
  for (int fd = first; fd <= last; ++fd) {
    if (is_own(fd)) return fd;
  }
  return -1;
}

// Closes all but the library's own.
int close_others(unsigned first, unsigned last, int flags) {
  const auto end_of_own = static_cast<unsigned>(highest.load(std::memory_order_relaxed));
  while (first <= last) {
    const int own = first <= end_of_own ? own_between(static_cast<int>(first),
                                                      static_cast<int>(std::min(last, end_of_own)))
                                        : -1;
    const unsigned until = own >= 0 ? static_cast<unsigned>(own) : last + 1;
    if ((own < 0 || until > first) && real().close_range(first, until - 1, flags) != 0) return -1;
    if (own < 0) break;
    first = until + 1;
  }
  return 0;
}

void forget_all(unsigned first, unsigned last) {
  for (unsigned fd = first; fd <= std::min<unsigned>(last, kMostDescriptors - 1); ++fd) {
    if (!is_own(static_cast<int>(fd))) end(forget(static_cast<int>(fd)));
  }
}

}  // namespace
}  // namespace daxfs::run

using namespace daxfs::run;

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = has_mode(flags) ? va_arg(more, mode_t) : 0;
  va_end(more);
  return opened(real().open(path, flags, mode), flags);
}
int open64(const char*, int, ...) __attribute__((alias("open")));

int openat(int directory, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = has_mode(flags) ? va_arg(more, mode_t) : 0;
  va_end(more);
  return opened(real().openat(directory, path, flags, mode), flags);
}
int openat64(int, const char*, int, ...) __attribute__((alias("openat")));

// What compilers put in place of these where no mode is given.
int __open_2(const char* path, int flags) { return open(path, flags); }
int __open64_2(const char*, int) __attribute__((alias("__open_2")));
int __openat_2(int directory, const char* path, int flags) {
  return openat(directory, path, flags);
}
int __openat64_2(int, const char*, int) __attribute__((alias("__openat_2")));

int creat(const char* path, mode_t mode) { return opened(real().creat(path, mode), O_WRONLY); }
int creat64(const char*, mode_t) __attribute__((alias("creat")));

int close(int fd) {
  if (is_own(fd)) {
    errno = EBADF;
    return -1;
  }
  if (!is_attached(fd)) {
    static_cast<void>(forget(fd));
    return real().close(fd);
  }
  if (is_in_parents_memory()) return raw::close(fd);
  Opened* const attached = forget(fd);
  // No cancellation point.
  const int result = raw::close(fd);
  const int error = errno;
  end(attached);
  errno = error;
  return result;
}
int __close(int) __attribute__((alias("close")));

int close_range(unsigned first, unsigned last, int flags) noexcept {
  const auto bits = static_cast<unsigned>(flags);
  if ((bits & CLOSE_RANGE_CLOEXEC) != 0 || first > last)
    return real().close_range(first, last, flags);
  if ((bits & CLOSE_RANGE_UNSHARE) != 0 && unshare(CLONE_FILES) != 0) return -1;
  if (!is_in_parents_memory()) forget_all(first, last);
  return close_others(first, last, flags & ~static_cast<int>(CLOSE_RANGE_UNSHARE));
}

void closefrom(int first) noexcept {
  static_cast<void>(close_range(static_cast<unsigned>(std::max(first, 0)), ~0u, 0));
}

int dup(int fd) noexcept { return copied(fd, real().dup(fd)); }

int dup2(int fd, int copy) noexcept {
  if (!make_room(fd, copy)) return -1;
  const int result = real().dup2(fd, copy);
  if (fd == copy || (is_attached(copy) && is_in_parents_memory())) return result;
  return copied(fd, result);
}

int dup3(int fd, int copy, int flags) noexcept {
  if (!make_room(fd, copy)) return -1;
  const int result = real().dup3(fd, copy, flags);
  if (is_attached(copy) && is_in_parents_memory()) return result;
  return fd == copy ? result : copied(fd, result);
}

int fcntl(int fd, int command, ...) {
  va_list more;
  va_start(more, command);
  const long argument = va_arg(more, long);
  va_end(more);
  if (command == F_SETLK || command == F_SETLKW) note_posix_lock();
  const int result = real().fcntl(fd, command, argument);
  if (result < 0) return result;
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) return copied(fd, result);
  const std::atomic<Word>* const word = word_of(fd);
  if (command == F_SETFL && word != nullptr && word->load() != kUnknown) look_at_flags();
  return result;
}
int fcntl64(int, int, ...) __attribute__((alias("fcntl")));

int lockf(int fd, int command, off_t length) {
  note_posix_lock();
  return real().lockf(fd, command, length);
}
int lockf64(int, int, off64_t) __attribute__((alias("lockf")));

int unshare(int flags) noexcept {
  if ((flags & CLONE_FILES) != 0 && !is_in_parents_memory()) {
    attach_no_more();
    forget_all(0, kMostDescriptors - 1);
  }
  return real().unshare(flags);
}

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  const bool shared = (flags & MAP_TYPE) == MAP_SHARED || (flags & MAP_TYPE) == MAP_SHARED_VALIDATE;
  if (fd >= 0 && shared) note_mapped(fd);
  // An allocator's, perhaps, which must not be entered again by looking for functions.
  if (fd < 0) return reinterpret_cast<void*>(raw::mmap(address, length, protection, flags, offset));
  return real().mmap(address, length, protection, flags, fd, offset);
}
void* mmap64(void*, size_t, int, int, int, off64_t) noexcept __attribute__((alias("mmap")));

// From then on stdio reads and writes, by calls of its own, and closes the descriptor.
FILE* fdopen(int fd, const char* mode) noexcept {
  FILE* const file = real().fdopen(fd, mode);
  if (file != nullptr) end(forget(fd));
  return file;
}

int fclose(FILE* file) {
  if (file != nullptr) {
    const int before = errno;
    end(forget(fileno(file)));
    errno = before;
  }
  return real().fclose(file);
}

}  // extern "C"
