// libdaxfs: mapping what is pinned. C linkage, no C++ runtime needed (hence malloc and plain
// structs).
//
// Every mapping is made in two steps: reserve address space that nobody uses, then put the pool's
// pages over it. The first step decides the alignment, the second cannot collide with other
// threads' mappings.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "client/daxfs.h"
#include "client/paging.h"
#include "client/pool_file.h"

namespace {

using daxfs::client::find_pool;
using daxfs::client::is_pool;
using daxfs::client::KeepErrno;
using daxfs::client::kHugePage;
using daxfs::client::kLargestStep;
using daxfs::client::kPinLocks;
using daxfs::client::lock_byte;
using daxfs::client::mapping_step;
using daxfs::client::open_pool_at;
using daxfs::client::page_size;
using daxfs::client::round_down;
using daxfs::client::round_up;

void unmap_quietly(void* address, std::uint64_t length) {
  const KeepErrno keep;
  munmap(address, static_cast<std::size_t>(length));
}

// The pinned extents, in file order, each within 63 bits and a whole number of blocks.
struct Pinned {
  daxfs_extent* extents = nullptr;
  std::size_t count = 0;
  bool writable = true;

  Pinned() = default;
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() {
    const KeepErrno keep;
    std::free(extents);
  }

  bool load(int fd, std::uint64_t pin_id) {
    std::size_t capacity = 0;
    const auto keep = [&](const daxfs_extent& extent) {
      if (count == capacity) {
        capacity = capacity == 0 ? 64 : capacity * 2;
        void* grown = std::realloc(extents, capacity * sizeof(daxfs_extent));
        if (grown == nullptr) return false;
        extents = static_cast<daxfs_extent*>(grown);
      }
      extents[count++] = extent;
      if ((extent.flags & DAXFS_EXTENT_WRITABLE) == 0) writable = false;
      return true;
    };
    if (daxfs::client::for_each_extent(fd, DAXFS_IOC_PIN_EXTENTS, pin_id, 0, 0, keep) < 0) {
      return false;
    }
    if (count == 0 || !plausible()) {
      errno = EIO;
      return false;
    }
    return true;
  }

 private:
  bool plausible() const {
    constexpr std::uint64_t kLimit = INT64_MAX - kLargestStep;
    std::uint64_t end = extents[0].file_offset;
    for (std::size_t i = 0; i < count; ++i) {
      const daxfs_extent& extent = extents[i];
      const std::uint64_t bits = extent.file_offset | extent.pool_offset | extent.length;
      if (bits % DAXFS_BLOCK_SIZE != 0 || extent.length == 0 || extent.file_offset != end ||
          extent.file_offset > kLimit || extent.pool_offset > kLimit || extent.length > kLimit ||
          extent.file_offset + extent.length > kLimit ||
          extent.pool_offset + extent.length > kLimit) {
        return false;
      }
      end += extent.length;
    }
    return end - extents[0].file_offset <= SIZE_MAX / 2;
  }
};

constexpr int kByPath = -1;

// The pool as this process may open it, and how to map it.
class Pool {
 public:
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    const KeepErrno keep;
    if (fd_ >= 0) close(fd_);
  }

  // `given`: a descriptor of the pool, or kByPath.
  bool open(int given, int file, std::uint64_t pin_id, bool writable, std::uint64_t some_offset) {
    daxfs_pool_args pool = {};
    step_ = mapping_step(file, &pool);
    if (step_ == 0) return false;
    struct stat status;
    const bool found =
        given == kByPath ? find(pool, writable, &status) : take(given, pool, writable, &status);
    if (!found) return false;
    // Touching a mapping beyond the end would be SIGBUS. A device has no size here; it refuses by
    // itself.
    size_ = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : UINT64_MAX;
    protection_ = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    lock(pin_id);
    choose_flags(round_down(some_offset, step_));
    return true;
  }

  std::uint64_t step() const { return step_; }

  // EIO if an extent lies outside the pool.
  bool contains(const Pinned& pinned) const {
    for (std::size_t i = 0; i < pinned.count; ++i) {
      if (pinned.extents[i].pool_offset + pinned.extents[i].length > size_) {
        errno = EIO;
        return false;
      }
    }
    return true;
  }

  // Replaces reserved pages by the pool's.
  bool put(std::byte* address, std::uint64_t pool_offset, std::uint64_t length) const {
    return mmap(address, static_cast<std::size_t>(length), protection_, flags_ | MAP_FIXED, fd_,
                static_cast<off_t>(pool_offset)) != MAP_FAILED;
  }

 private:
  bool find(const daxfs_pool_args& pool, bool writable, struct stat* status) {
    fd_ = find_pool(pool, writable, status);
    return fd_ >= 0;
  }

  // An open file of our own, whose lock goes with our mappings; else the given one itself.
  bool take(int given, const daxfs_pool_args& pool, bool writable, struct stat* status) {
    if (!is_pool(given, pool, status)) return false;
    char path[sizeof "/proc/self/fd/" + 3 * sizeof(int)];
    static_cast<void>(std::snprintf(path, sizeof path, "/proc/self/fd/%d", given));
    fd_ = open_pool_at(path, pool, writable, status);
    if (fd_ < 0) fd_ = fcntl(given, F_DUPFD_CLOEXEC, 0);
    return fd_ >= 0;
  }

  // Tells later daemons, in whatever namespace, that somebody maps what the pin holds: the kernel
  // keeps this lock until the last mapping of this open file has gone, forked children's included.
  // The place is blockmap/pin_lock.h's. Where locks do not work, the pin has its process to go by.
  void lock(std::uint64_t pin_id) const {
    if (pin_id >= daxfs::client::kAttachProofs - kPinLocks) return;
    const KeepErrno keep;
    static_cast<void>(lock_byte(fd_, F_RDLCK, kPinLocks + pin_id));
  }

  // Tried out beside the reservation: a MAP_FIXED that fails may already have removed what was
  // there, and another thread's mapping could take the place before the second try.
  void choose_flags(std::uint64_t offset) {
    const std::size_t length = static_cast<std::size_t>(step_);
    void* tried = mmap(nullptr, length, protection_, MAP_SHARED_VALIDATE | MAP_SYNC, fd_,
                       static_cast<off_t>(offset));
    if (tried == MAP_FAILED) return;
    munmap(tried, length);
    flags_ = MAP_SHARED_VALIDATE | MAP_SYNC;
  }

  int fd_ = -1;
  std::uint64_t size_ = 0;
  int protection_ = PROT_READ;
  int flags_ = MAP_SHARED;
  std::uint64_t step_ = 0;
};

// Address space for `length` bytes at an address that is `phase` modulo `step`; nullptr with errno.
std::byte* reserve(std::uint64_t length, std::uint64_t step, std::uint64_t phase) {
  const std::size_t total = static_cast<std::size_t>(length + step);
  void* raw = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const std::uint64_t head = (phase - reinterpret_cast<std::uintptr_t>(raw)) & (step - 1);
  std::byte* const start = static_cast<std::byte*>(raw) + head;
  if (head != 0) munmap(raw, static_cast<std::size_t>(head));
  munmap(start + length, total - static_cast<std::size_t>(head + length));
  return start;
}

// The kernel can use huge pages where address and pool offset agree modulo 2 MiB: worth it from
// there on.
std::uint64_t address_step(std::uint64_t step, std::uint64_t length) {
  return length >= kHugePage ? std::max(step, kHugePage) : step;
}

// How many of the extents from `first` on lie side by side in the pool, and their length together.
struct Run {
  std::size_t extents;
  std::uint64_t length;
};
Run run_from(const Pinned& pinned, std::size_t first) {
  Run run = {1, pinned.extents[first].length};
  for (std::size_t next = first + 1; next < pinned.count; ++next, ++run.extents) {
    const daxfs_extent& extent = pinned.extents[next];
    if (extent.pool_offset != pinned.extents[first].pool_offset + run.length) break;
    run.length += extent.length;
  }
  return run;
}

// What the view's address must be modulo `address_step`: whatever suits the first run that is long
// enough for huge pages. False with EOPNOTSUPP if a run does not fall on the device's mapping
// steps.
bool find_phase(const Pinned& pinned, std::uint64_t device_step, std::uint64_t address_step,
                std::uint64_t* phase) {
  bool found = false;
  *phase = 0;
  for (std::size_t i = 0; i < pinned.count;) {
    const daxfs_extent& extent = pinned.extents[i];
    const Run run = run_from(pinned, i);
    if (((extent.pool_offset | run.length) & (device_step - 1)) != 0) {
      errno = EOPNOTSUPP;
      return false;
    }
    if (!found && run.length >= kHugePage) {
      const std::uint64_t into_view = extent.file_offset - pinned.extents[0].file_offset;
      *phase = (extent.pool_offset - into_view) & (address_step - 1);
      found = true;
    }
    i += run.extents;
  }
  return true;
}

// Maps the device's whole steps around an extent; the address of the extent's own first byte.
void* map_around(const Pool& pool, const daxfs_extent& extent) {
  const std::uint64_t start = round_down(extent.pool_offset, pool.step());
  const std::uint64_t end = round_up(extent.pool_offset + extent.length, pool.step());
  const std::uint64_t step = address_step(pool.step(), end - start);
  std::byte* const outer = reserve(end - start, step, start & (step - 1));
  if (outer == nullptr) return nullptr;
  if (!pool.put(outer, start, end - start)) {
    unmap_quietly(outer, end - start);
    return nullptr;
  }
  return outer + (extent.pool_offset - start);
}

int unmap_around(const iovec& part, std::uint64_t step) {
  const std::uint64_t before = reinterpret_cast<std::uintptr_t>(part.iov_base) & (step - 1);
  return munmap(static_cast<std::byte*>(part.iov_base) - before,
                static_cast<std::size_t>(round_up(before + part.iov_len, step)));
}

// Without a daemon to ask: a device refuses to split a mapping between its steps (EINVAL), so the
// first step that it takes is the right one.
int unmap_by_trial(const iovec& part) {
  for (const std::uint64_t step : {page_size(), kHugePage, kLargestStep}) {
    if (unmap_around(part, step) == 0) return 0;
    if (errno != EINVAL) return -1;
  }
  return -1;
}

void* map(int given, int fd, std::uint64_t pin_id, std::size_t* length) {
  if (length == nullptr) {
    errno = EINVAL;
    return nullptr;
  }
  Pinned pinned;
  Pool pool;
  if (!pinned.load(fd, pin_id) ||
      !pool.open(given, fd, pin_id, pinned.writable, pinned.extents[0].pool_offset) ||
      !pool.contains(pinned)) {
    return nullptr;
  }

  const std::uint64_t file_start = pinned.extents[0].file_offset;
  const daxfs_extent& last = pinned.extents[pinned.count - 1];
  const std::uint64_t total = last.file_offset + last.length - file_start;
  const std::uint64_t step = address_step(pool.step(), total);
  std::uint64_t phase = 0;
  if (!find_phase(pinned, pool.step(), step, &phase)) return nullptr;
  std::byte* const view = reserve(total, step, phase);
  if (view == nullptr) return nullptr;
  for (std::size_t i = 0; i < pinned.count;) {
    const daxfs_extent& extent = pinned.extents[i];
    const Run run = run_from(pinned, i);
    if (!pool.put(view + (extent.file_offset - file_start), extent.pool_offset, run.length)) {
      unmap_quietly(view, total);
      return nullptr;
    }
    i += run.extents;
  }
  *length = static_cast<std::size_t>(total);
  return view;
}

ssize_t map_iov(int given, int fd, std::uint64_t pin_id, iovec* out, std::size_t capacity) {
  Pinned pinned;
  if (!pinned.load(fd, pin_id)) return -1;
  if (capacity == 0) return static_cast<ssize_t>(pinned.count);
  if (pinned.count > capacity) {
    errno = ENOSPC;
    return -1;
  }
  Pool pool;
  if (!pool.open(given, fd, pin_id, pinned.writable, pinned.extents[0].pool_offset) ||
      !pool.contains(pinned)) {
    return -1;
  }
  for (std::size_t i = 0; i < pinned.count; ++i) {
    const daxfs_extent& extent = pinned.extents[i];
    void* const address = map_around(pool, extent);
    if (address == nullptr) {
      const KeepErrno keep;
      while (i > 0) unmap_around(out[--i], pool.step());
      return -1;
    }
    out[i] = {address, static_cast<std::size_t>(extent.length)};
  }
  return static_cast<ssize_t>(pinned.count);
}

// No descriptor is no descriptor.
int checked(int pool) { return pool == kByPath ? kByPath - 1 : pool; }

}  // namespace

void* daxfs_map(int fd, std::uint64_t pin_id, std::size_t* length) {
  return map(kByPath, fd, pin_id, length);
}

void* daxfs_map_at(int pool, int fd, std::uint64_t pin_id, std::size_t* length) {
  return map(checked(pool), fd, pin_id, length);
}

int daxfs_unmap(void* address, std::size_t length) { return munmap(address, length); }

ssize_t daxfs_map_iov(int fd, std::uint64_t pin_id, iovec* out, std::size_t capacity) {
  return map_iov(kByPath, fd, pin_id, out, capacity);
}

ssize_t daxfs_map_iov_at(int pool, int fd, std::uint64_t pin_id, iovec* out, std::size_t capacity) {
  return map_iov(checked(pool), fd, pin_id, out, capacity);
}

int daxfs_unmap_iov(int fd, const iovec* iov, std::size_t count) {
  daxfs_pool_args pool = {};
  const std::uint64_t step = mapping_step(fd, &pool);
  int error = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const int result = step != 0 ? unmap_around(iov[i], step) : unmap_by_trial(iov[i]);
    if (result < 0 && error == 0) error = errno;
  }
  if (error == 0) return 0;
  errno = error;
  return -1;
}
