// Requests that may not wait as long as the policy would let them.
#include "src/wait_bounds.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "base/process_identity.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using std::chrono::seconds;

namespace {

constexpr SteadyTime kStart{std::chrono::hours(1000)};

DetachRequest asked(DetachReason reason, uid_t user, pid_t process) {
  return {.inode = InodeNumber{1},
          .range = {},
          .blocks = {},
          .requester = {process, user},
          .reason = reason};
}

DetachRequest rename_by(uid_t user) { return asked(DetachReason::rename_over, user, getpid()); }

}  // namespace

TEST_CASE("wait bounds: whom the kernel's locks make wait, waits for a stranger for 2 s") {
  WaitBounds bounds([](uid_t user) { return user == 0; });
  CHECK(bounds.latest(rename_by(0), kStart) == SteadyTime::max());
  CHECK(bounds.latest(asked(DetachReason::truncate, 7, getpid()), kStart) == SteadyTime::max());
  CHECK(bounds.latest(rename_by(7), kStart) == kStart + seconds(2));

  // All renames of a user together: the next one finds less, or nothing left.
  CHECK(bounds.latest(rename_by(7), kStart + seconds(1)) == kStart + seconds(2));
  CHECK(bounds.latest(rename_by(7), kStart + seconds(11)) == kStart + seconds(2));
  CHECK(bounds.latest(rename_by(8), kStart + seconds(11)) == kStart + seconds(13));
  CHECK(bounds.latest(rename_by(7), kStart + seconds(12)) == kStart + seconds(14));

  // It asks again for the same request, and says the same.
  CHECK(bounds.latest(rename_by(7), kStart + seconds(12)) == kStart + seconds(14));

  // Many users later, whose time is not over is still known.
  for (uid_t user = 100; user < 5000; ++user) {
    CHECK(bounds.latest(rename_by(user), kStart + seconds(13)) == kStart + seconds(15));
  }
  CHECK(bounds.latest(rename_by(7), kStart + seconds(15)) == kStart + seconds(14));
}

TEST_CASE("wait bounds: what nobody can interrupt waits for a minute") {
  WaitBounds bounds([](uid_t) { return true; });
  CHECK(bounds.latest(asked(DetachReason::punch, 0, 0), kStart) == kStart + seconds(60));
  CHECK(bounds.latest(asked(DetachReason::punch, 0, getpid()), kStart) == SteadyTime::max());

  std::string name;
  std::getline(std::ifstream("/proc/2/comm"), name);
  if (name != "kthreadd") return;  // this pid namespace has no kernel threads
  CHECK(is_kernel_thread(2));
  CHECK_FALSE(is_kernel_thread(getpid()));
  CHECK(bounds.latest(asked(DetachReason::punch, 0, 2), kStart) == kStart + seconds(60));
}
