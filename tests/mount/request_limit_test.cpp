// A kernel that ends the whole mount when a request lasts too long (Linux 6.15 and newer): what
// waits is answered in time, and is the same request when it is repeated.
#include <cerrno>
#include <chrono>
#include <fstream>
#include <string>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr int kLimit = 10;  // seconds
// The kernel looks every 15 s for requests that are too old.
constexpr Seconds kEndOfMount{kLimit + 15};

// The kernel's limit for mounts that are made while it lasts.
class RequestLimit {
 public:
  RequestLimit() {
    need_own_machine();
    std::ifstream(kKnob) >> before_;
    std::ofstream(kKnob) << kLimit << std::flush;
    int now = 0;
    std::ifstream(kKnob) >> now;
    if (now != kLimit) skip_here("this kernel has no limit for requests (Linux 6.15)");
  }
  ~RequestLimit() { std::ofstream(kKnob) << before_; }
  RequestLimit(const RequestLimit&) = delete;
  RequestLimit& operator=(const RequestLimit&) = delete;

 private:
  static constexpr const char* kKnob = "/proc/sys/fs/fuse/default_request_timeout";
  int before_ = 0;
};

// An operation that is repeated after EINTR, as Python does; its last errno.
template <class Operation>
int repeated(const Operation& operation) {
  for (;;) {
    const int error = operation();
    if (error != EINTR) return error;
  }
}

}  // namespace

TEST_CASE("a kernel that limits requests: who waits repeats, keeps its place, and no mount ends") {
  need_mounts();
  const RequestLimit limit;
  Mount mount({.options = "pin_policy=wait"});
  CHECK(mount.status()["request_limit"] == kLimit);
  CHECK(contains(mount.log(), "this kernel ends a mount when a request takes 10 s"));
  const std::string file = mount.path("f");
  write_file(file, pattern(8 * kBlock, 1));
  Holder holder([&] { return pin_and_keep(file, 0, kBlock); });
  REQUIRE(holder.result() == 0);

  // Without a repetition.
  Attempt once([&] { return shrink(file, 0); });
  CHECK(once.finish() == EINTR);
  CHECK(status_of(file).st_size == 8 * kBlock);

  Attempt detach([&] { return repeated([&] { return shrink(file, 0); }); });
  REQUIRE(waiting_becomes(mount, 1));
  // Behind the fence, and behind it after all its repetitions.
  Attempt pin([&] { return repeated([&] { return pin_and_keep(file, 0, kBlock); }); });
  REQUIRE(waiting_becomes(mount, 2));
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(eventually([&] { return std::chrono::steady_clock::now() - begin > kEndOfMount; },
                     2 * kEndOfMount));
  CHECK(detach.running());
  CHECK(pin.running());
  CHECK(mount.status()["pins"]["long"] == 1);
  holder.die();
  CHECK(detach.finish() == 0);
  CHECK(pin.finish() == ENXIO);  // a hole now
}

}  // namespace daxfs::test
