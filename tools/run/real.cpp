#include "tools/run/real.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <atomic>

namespace daxfs::run {
namespace {

Real found;
std::atomic<bool> all_found;

template <typename Function>
void find(Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
  if (function == nullptr) abort();  // no libc that daxfs knows
}

// Threads that do it at once find the same.
void find_all() {
  find(found.open, "open");
  find(found.openat, "openat");
  find(found.creat, "creat");
  find(found.close, "close");
  find(found.close_range, "close_range");
  find(found.dup, "dup");
  find(found.dup2, "dup2");
  find(found.dup3, "dup3");
  find(found.fcntl, "fcntl");
  find(found.lockf, "lockf");
  find(found.read, "read");
  find(found.write, "write");
  find(found.pread, "pread");
  find(found.pwrite, "pwrite");
  find(found.readv, "readv");
  find(found.writev, "writev");
  find(found.preadv, "preadv");
  find(found.pwritev, "pwritev");
  find(found.preadv2, "preadv2");
  find(found.pwritev2, "pwritev2");
  find(found.fsync, "fsync");
  find(found.fdatasync, "fdatasync");
  find(found.fdopen, "fdopen");
  find(found.fclose, "fclose");
  find(found.unshare, "unshare");
  find(found.mmap, "mmap");
  all_found.store(true, std::memory_order_release);
}

}  // namespace

const Real& real() {
  if (!all_found.load(std::memory_order_acquire)) [[unlikely]]
    find_all();
  return found;
}

}  // namespace daxfs::run
