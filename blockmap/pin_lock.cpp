#include "blockmap/pin_lock.h"

#include <fcntl.h>

#include <limits>

namespace daxfs {
namespace {

bool is_locked(int pool, std::uint64_t start, std::uint64_t length) {
  struct flock lock {};
  lock.l_type = F_WRLCK;  // whose locks would be in its way
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  return ::fcntl(pool, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace

bool is_pin_locked(int pool, std::uint64_t pin_id) {
  return pin_id < kAttachProofs - kPinLocks && is_locked(pool, kPinLocks + pin_id, 1);
}

bool is_write_locked(int pool, std::uint64_t proof) {
  constexpr std::uint64_t kLast = std::numeric_limits<off_t>::max();
  if (proof > kLast - kAttachProofs) return false;
  struct flock lock {};
  lock.l_type = F_RDLCK;  // only an exclusive lock is in its way
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kAttachProofs + proof);
  lock.l_len = 1;
  return ::fcntl(pool, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK;
}

PinLocked pin_locks_of(int pool) {
  const bool any = is_locked(pool, kPinLocks, kAttachProofs - kPinLocks);
  return [pool, any](std::uint64_t pin_id) { return any && is_pin_locked(pool, pin_id); };
}

}  // namespace daxfs
