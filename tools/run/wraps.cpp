// What libdaxfs's sources call instead of libc's functions when they are linked into this library
// (-Wl,--wrap): system calls, since libc's names are this library's own here; and memory that is
// not malloc()'s, since a signal handler may read while the program is inside malloc().
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "tools/run/raw.h"

namespace raw = daxfs::run::raw;

namespace {

// Before each piece of memory.
struct alignas(64) Header {
  std::size_t mapped;
};

Header* header_of(void* memory) { return static_cast<Header*>(memory) - 1; }

std::size_t pages_for(std::size_t size) { return (size + sizeof(Header) + 4095) / 4096 * 4096; }

}  // namespace

extern "C" {

int __wrap_open64(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int __wrap___open64_2(const char* path, int flags) { return __wrap_open64(path, flags); }

int __wrap_fcntl64(int fd, int command, ...) {
  va_list more;
  va_start(more, command);
  const long argument = va_arg(more, long);
  va_end(more);
  return raw::fcntl(fd, command, argument);
}

int __wrap_close(int fd) { return raw::close(fd); }

void* __wrap_malloc(std::size_t size) {
  if (size > SIZE_MAX / 2) {
    errno = ENOMEM;
    return nullptr;
  }
  const std::size_t length = pages_for(size);
  void* const at =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  auto* const header = static_cast<Header*>(at);
  header->mapped = length;
  return header + 1;
}

void __wrap_free(void* memory) {
  if (memory != nullptr) munmap(header_of(memory), header_of(memory)->mapped);
}

void* __wrap_realloc(void* memory, std::size_t size) {
  if (memory == nullptr) return __wrap_malloc(size);
  Header* const header = header_of(memory);
  const std::size_t length = pages_for(size);
  if (size > SIZE_MAX / 2 || length <= header->mapped)
    return size > SIZE_MAX / 2 ? nullptr : memory;
  void* const at = mremap(header, header->mapped, length, MREMAP_MAYMOVE);
  if (at == MAP_FAILED) return nullptr;
  static_cast<Header*>(at)->mapped = length;
  return static_cast<Header*>(at) + 1;
}

int __wrap_posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  if (alignment > alignof(Header)) return EINVAL;
  void* const memory = __wrap_malloc(size);
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}

}  // extern "C"
