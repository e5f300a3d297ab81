// What `status` says is wrong with a mount.
#include "src/degraded.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/units.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

MountState sound() {
  MountState now;
  now.pool = "/pool";
  now.mountpoint = "/mnt";
  now.policy.limbo_limit = ByteCount(100);
  now.total = ByteCount(1000);
  now.free = ByteCount(500);
  return now;
}

std::vector<std::string> words(const MountState& condition) {
  std::vector<std::string> out;
  for (const Degraded& one : what_is_degraded(condition)) {
    CHECK_FALSE(one.text.empty());
    CHECK_FALSE(one.way_out.empty());
    out.push_back(one.what);
  }
  return out;
}

}  // namespace

TEST_CASE("degraded: nothing is, where all is well") {
  CHECK(words(sound()).empty());
  MountState empty = sound();
  empty.policy.limbo_limit = ByteCount(0);  // nothing may go to limbo, and nothing has
  CHECK(words(empty).empty());
}

TEST_CASE("degraded: the worst comes first, and names the way out") {
  MountState now = sound();
  now.stopped = "the storage is gone";
  now.unreadable = 3;
  now.policy.pin_policy = PinPolicy::ignore;
  now.limbo = ByteCount(81);
  now.free = ByteCount(49);
  now.longest_wait = std::chrono::seconds(300);
  now.needs_msync = true;
  now.request_limit = std::chrono::seconds(60);
  CHECK(words(now) == std::vector<std::string>{"stopped", "unreadable", "ignored_pins",
                                               "limbo_nearly_full", "nearly_full", "requests_wait",
                                               "needs_msync", "request_limit"});
  const Degraded worst = what_is_degraded(now).front();
  CHECK(worst.text == "stopped: the storage is gone; nothing is changed any more");
  CHECK(worst.way_out == "save what is needed, umount /mnt, fsck.daxfs /pool");
}

TEST_CASE("degraded: shortages are told from their limits on, and not before") {
  MountState now = sound();
  now.limbo = ByteCount(80);
  now.free = ByteCount(50);
  now.longest_wait = std::chrono::seconds(299);
  CHECK(words(now).empty());
  now.limbo = ByteCount(90);
  CHECK(words(now) == std::vector<std::string>{"limbo_nearly_full"});
  CHECK(what_is_degraded(now).front().text ==
        "90 % of limbo_limit is used: behind it defer refuses");
  now.limbo = ByteCount(0);
  now.free = ByteCount(0);
  CHECK(what_is_degraded(now).front().way_out == "delete files");
  now.limbo = ByteCount(10);
  CHECK(what_is_degraded(now).front().way_out ==
        "delete files, or end the holders that keep limbo (daxfsctl pins /mnt)");
}

}  // namespace daxfs::test
