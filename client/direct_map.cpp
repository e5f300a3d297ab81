#include "client/direct_map.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <cstdlib>
#include <new>

#include "client/direct_copy.h"
#include "client/pool_file.h"

namespace daxfs::client {
namespace {

pthread_mutex_t pools_lock = PTHREAD_MUTEX_INITIALIZER;
SharedPool* pools = nullptr;

// A fork in the middle of another thread's attaching must not leave the child without the lock.
void watch_forks() {
  static bool watched = false;
  if (watched) return;
  watched = pthread_atfork([] { pthread_mutex_lock(&pools_lock); },
                           [] { pthread_mutex_unlock(&pools_lock); },
                           [] { pthread_mutex_unlock(&pools_lock); }) == 0;
}

// MAP_SYNC where the medium can. `offset` and `length` are multiples of the pool's step.
bool map_pool(int fd, std::uint64_t offset, std::uint64_t length, Mapping* out) {
  const auto bytes = static_cast<std::size_t>(length);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd,
                  static_cast<off_t>(offset));
  if (at == MAP_FAILED) {
    at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  }
  if (at == MAP_FAILED) return false;
  if (madvise(at, bytes, MADV_DONTFORK) != 0) {
    const KeepErrno keep;
    munmap(at, bytes);
    return false;
  }
  *out = {static_cast<std::byte*>(at), bytes};
  return true;
}

void unmap(const Mapping& mapping) {
  const KeepErrno keep;
  if (mapping.start != nullptr) munmap(mapping.start, mapping.length);
}

SharedPool* use_pool(int fd, const daxfs_pool_args& pool, std::uint64_t length) {
  pthread_mutex_lock(&pools_lock);
  SharedPool* found = pools;
  const auto is_other = [&](const SharedPool& one) {
    return one.device != pool.device || one.inode != pool.inode ||
           one.lost.load(std::memory_order_relaxed);
  };
  while (found != nullptr && is_other(*found)) found = found->next;
  if (found != nullptr) {
    ++found->users;
  } else if (void* const room = std::malloc(sizeof(SharedPool))) {
    Mapping mapped;
    if (map_pool(fd, 0, length, &mapped)) {
      found = new (room) SharedPool{pool.device, pool.inode, mapped, 1, pools, false};
      pools = found;
    } else {
      const KeepErrno keep;
      std::free(room);
    }
  }
  pthread_mutex_unlock(&pools_lock);
  return found;
}

void leave_pool(SharedPool* pool) {
  pthread_mutex_lock(&pools_lock);
  if (--pool->users == 0) {
    SharedPool** at = &pools;
    while (*at != pool) at = &(*at)->next;
    *at = pool->next;
    unmap(pool->mapped);
    std::free(pool);
  }
  pthread_mutex_unlock(&pools_lock);
}

// Everything after the pool is open; `fd` is the file's.
bool attach_through(int pool_fd, int fd, std::uint64_t step, Attached* out) {
  // A proof that nobody can guess, so that it is nobody else's, either.
  std::uint64_t proof = 0;
  if (getrandom(&proof, sizeof proof, 0) != sizeof proof) return false;
  proof >>= 4;
  if (!lock_byte(pool_fd, F_WRLCK, kAttachProofs + proof)) return false;
  out->terms = {};
  out->terms.proof = proof;
  if (ioctl(fd, DAXFS_IOC_ATTACH, &out->terms) < 0) return false;
  const daxfs_unpin_args back = {out->terms.pin_id};
  const std::uint64_t start = round_down(out->terms.doorbell, step);
  const bool sound = out->terms.pin_id < kAttachProofs - kPinLocks &&
                     out->terms.doorbell % DAXFS_BLOCK_SIZE == 0 &&
                     out->terms.doorbell < out->terms.pool_length &&
                     out->terms.pool_length <= SIZE_MAX / 2;
  if (!sound) {
    errno = EIO;
  } else if (lock_byte(pool_fd, F_RDLCK, kPinLocks + out->terms.pin_id) &&
             lock_byte(pool_fd, F_UNLCK, kAttachProofs + proof) &&
             map_pool(pool_fd, start, step, &out->around)) {
    out->page =
        reinterpret_cast<doorbell::Page*>(out->around.start + (out->terms.doorbell - start));
    return true;
  }
  const KeepErrno keep;
  lock_byte(pool_fd, F_UNLCK, kPinLocks + out->terms.pin_id);
  ioctl(fd, DAXFS_IOC_DETACH, &back);
  return false;
}

}  // namespace

std::uint64_t* fork_page = nullptr;

bool attach_and_map(int fd, Attached* out) {
  daxfs_pool_args pool = {};
  const std::uint64_t step = mapping_step(fd, &pool);
  if (step == 0) return false;
  if (!can_copy_durably()) {
    errno = EOPNOTSUPP;
    return false;
  }
  struct stat status;
  // Its own open file, whose lock goes with the doorbell's mapping.
  const int pool_fd = find_pool(pool, true, &status);
  if (pool_fd < 0) return false;
  const bool mapped = catch_lost_storage() && attach_through(pool_fd, fd, step, out);
  {
    const KeepErrno keep;
    close(pool_fd);  // the doorbell's mapping keeps the open file, and its lock
  }
  if (!mapped) return false;
  // Touching a mapping beyond the end would be SIGBUS.
  const std::uint64_t whole = round_down(out->terms.pool_length, step);
  const bool inside =
      !S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) >= whole;
  // Another open file: this mapping may stay longer than the doorbell's.
  const int other = inside ? find_pool(pool, true, &status) : -1;
  if (!inside) errno = EIO;
  out->pool = other >= 0 ? use_pool(other, pool, whole) : nullptr;
  if (out->pool != nullptr) out->guard = {{out->around, out->pool->mapped}, step, &out->pool->lost};
  const KeepErrno keep;
  if (other >= 0) close(other);
  if (out->pool == nullptr) unmap_and_detach(fd, out);
  return out->pool != nullptr;
}

void unmap_and_detach(int fd, Attached* attached) {
  const KeepErrno keep;
  unmap(attached->around);
  if (attached->pool != nullptr) leave_pool(attached->pool);
  const daxfs_unpin_args back = {attached->terms.pin_id};
  ioctl(fd, DAXFS_IOC_DETACH, &back);
}

std::uint64_t fork_generation() {
  pthread_mutex_lock(&pools_lock);
  watch_forks();
  if (fork_page == nullptr) {
    void* const at = mmap(nullptr, static_cast<std::size_t>(page_size()), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED &&
        madvise(at, static_cast<std::size_t>(page_size()), MADV_WIPEONFORK) == 0)
      fork_page = static_cast<std::uint64_t*>(at);
  }
  std::uint64_t generation = 0;
  if (fork_page != nullptr) {
    if (*fork_page == 0) {
      // The parent's pools are not mapped here.
      pools = nullptr;
      if (getrandom(fork_page, sizeof *fork_page, 0) < 0) *fork_page = 0;
      *fork_page |= 1;
    }
    generation = *fork_page;
  }
  pthread_mutex_unlock(&pools_lock);
  return generation;
}

}  // namespace daxfs::client
