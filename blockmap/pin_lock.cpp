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
  constexpr std::uint64_t kLast = std::numeric_limits<off_t>::max();
  return pin_id <= kLast - kPinLocks && is_locked(pool, kPinLocks + pin_id, 1);
}

PinLocked pin_locks_of(int pool) {
  const bool any = is_locked(pool, kPinLocks, 0);  // 0: to the end
  return [pool, any](std::uint64_t pin_id) { return any && is_pin_locked(pool, pin_id); };
}

}  // namespace daxfs
