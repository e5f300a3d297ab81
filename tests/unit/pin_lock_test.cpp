// The lock of a pin that is mapped.
#include "blockmap/pin_lock.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "tests/unit/catch.h"

using namespace daxfs;

TEST_CASE("a pin is locked as long as anybody maps the description that has its lock") {
  char name[] = "/dev/shm/daxfs-lock-XXXXXX";
  const UniqueFd pool(::mkstemp(name));
  REQUIRE(pool.get() >= 0);
  REQUIRE(::ftruncate(pool.get(), 4096) == 0);
  UniqueFd holder(::open(name, O_RDONLY));
  ::unlink(name);
  REQUIRE(holder.get() >= 0);
  CHECK_FALSE(pin_locks_of(pool.get())(7));

  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kPinLocks + 7);
  lock.l_len = 1;
  REQUIRE(::fcntl(holder.get(), F_OFD_SETLK, &lock) == 0);
  void* const view = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, holder.get(), 0);
  REQUIRE(view != MAP_FAILED);
  holder = UniqueFd();

  const PinLocked locked = pin_locks_of(pool.get());
  CHECK(locked(7));
  CHECK_FALSE(locked(6));
  CHECK_FALSE(locked(8));
  CHECK_FALSE(locked(~0ull));
  REQUIRE(::munmap(view, 4096) == 0);
  CHECK_FALSE(locked(7));
  CHECK_FALSE(pin_locks_of(-1)(7));
}

TEST_CASE("who may write to the pool can prove it, and nobody else, nor for others") {
  char name[] = "/dev/shm/daxfs-lock-XXXXXX";
  const UniqueFd pool(::mkstemp(name));
  REQUIRE(pool.get() >= 0);
  const UniqueFd reader(::open(name, O_RDONLY));
  const UniqueFd writer(::open(name, O_RDWR));
  ::unlink(name);
  struct flock lock {};
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(kAttachProofs + 7);
  lock.l_len = 1;
  lock.l_type = F_WRLCK;
  CHECK(::fcntl(reader.get(), F_OFD_SETLK, &lock) < 0);
  lock.l_type = F_RDLCK;
  REQUIRE(::fcntl(reader.get(), F_OFD_SETLK, &lock) == 0);
  CHECK_FALSE(is_write_locked(pool.get(), 7));
  lock.l_type = F_UNLCK;
  REQUIRE(::fcntl(reader.get(), F_OFD_SETLK, &lock) == 0);
  lock.l_type = F_WRLCK;
  REQUIRE(::fcntl(writer.get(), F_OFD_SETLK, &lock) == 0);
  CHECK(is_write_locked(pool.get(), 7));
  CHECK_FALSE(is_write_locked(pool.get(), 6));
  CHECK_FALSE(is_write_locked(pool.get(), ~0ull));
  CHECK_FALSE(is_write_locked(-1, 7));
  // No pin of that number is mapped by it.
  CHECK_FALSE(pin_locks_of(pool.get())(7));
}
