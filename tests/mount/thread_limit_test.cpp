// No more threads can be had: a mount is refused, or what needs one is, and all else goes on.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

// Nobody else's, nor of a test that runs at the same time: only the daemon's threads count.
const uid_t kUser = 100'000 + static_cast<uid_t>(getpid());

// A limit of this process, which those that it starts inherit.
class Limit {
 public:
  Limit(__rlimit_resource what, rlim_t most) : what_(what) {
    REQUIRE(getrlimit(what_, &before_) == 0);
    const rlimit now{most, before_.rlim_max};
    REQUIRE(setrlimit(what_, &now) == 0);
  }
  ~Limit() { setrlimit(what_, &before_); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  __rlimit_resource what_;
  rlimit before_{};
};

void skip_with_sanitizers() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  skip_here("a sanitizer has threads and memory of its own");
#endif
}

}  // namespace

TEST_CASE("a mount that cannot have its threads is refused with the way out, and leaves nothing") {
  skip_with_sanitizers();
  Mount mount({.size = "8M+"});
  mount.unmount();
  for (const std::string& path : {mount.pool(), mount.path()}) {
    REQUIRE(chown(path.c_str(), kUser, kUser) == 0);
  }
  // With the first thread there are the gate's, the one for signals and the notifier's.
  for (const rlim_t threads : {1, 2, 3}) {
    INFO(threads);
    Finished refused;
    {
      const Limit limit(RLIMIT_NPROC, threads);
      refused = mount.run_as(kUser, {"daxfs", "-f", mount.pool(), mount.path()});
    }
    CAPTURE(refused.err);
    CHECK(refused.code == 1);
    CHECK(contains(refused.err, mount.path() + ": cannot start the threads"));
    CHECK(contains(refused.err, "raise the limit"));
    CHECK(std::filesystem::is_empty(mount.path()));
  }
  mount.mount();
}

TEST_CASE("who wants to hear events of a daemon that can have no more threads is told so") {
  skip_with_sanitizers();
  Mount mount({.size = "8M+"});
  write_file(mount.path("file"), pattern(kBlock, 1));
  const std::string events = mount.path(".daxfs/events");
  std::uint64_t pages = 0;
  std::ifstream(fmt::format("/proc/{}/statm", mount.daemon())) >> pages;
  // A thread's stack is larger than that.
  const rlimit little{pages * kBlock + (1 << 20), RLIM_INFINITY};
  const rlimit any{RLIM_INFINITY, RLIM_INFINITY};
  REQUIRE(prlimit(mount.daemon(), RLIMIT_AS, &little, nullptr) == 0);
  CHECK(error_of(open(events.c_str(), O_RDONLY)) == EAGAIN);
  CHECK(read_file(mount.path("file")) == pattern(kBlock, 1));
  REQUIRE(prlimit(mount.daemon(), RLIMIT_AS, &any, nullptr) == 0);
  const daxfs::UniqueFd listening(open(events.c_str(), O_RDONLY | O_NONBLOCK));
  CHECK(listening.get() >= 0);
}
