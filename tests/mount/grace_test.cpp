// The grace: a holder that has died leaves its pins until no device can be at work for it any more.
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/process_stat.h"
#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::uint64_t kLength = 1 << 20;

// Keeps a page of this machine pinned: what the kernel knows of a device that is at work.
class PinnedPage {
 public:
  PinnedPage() {
    page_ = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const iovec buffer{page_, 4096};
    if (io_uring_queue_init(2, &ring_, 0) != 0) skip_here("this machine has no io_uring");
    REQUIRE(io_uring_register_buffers(&ring_, &buffer, 1) == 0);
  }
  ~PinnedPage() {
    io_uring_unregister_buffers(&ring_);
    io_uring_queue_exit(&ring_);
    munmap(page_, 4096);
  }
  PinnedPage(const PinnedPage&) = delete;
  PinnedPage& operator=(const PinnedPage&) = delete;

 private:
  void* page_ = nullptr;
  io_uring ring_{};
};

// A holder that pins the file and is killed.
void pin_and_die(const std::string& path) {
  ReadyChild holder([&] {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);  // stays open until it is killed
    std::uint64_t pin = 0;
    return daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) == 0 ? 0 : 1;
  });
  REQUIRE(holder.result() == 0);
  holder.kill();
}

// Seen by forked processes, too.
template <class T>
class SharedValue {
 public:
  SharedValue()
      : value_(static_cast<T*>(
            mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedValue() { munmap(value_, sizeof(T)); }
  SharedValue(const SharedValue&) = delete;
  SharedValue& operator=(const SharedValue&) = delete;
  void set(T value) const { *value_ = value; }
  T get() const { return *value_; }

 private:
  T* const value_;
};

bool in_grace(const Mount& mount) {
  const Json pins = mount.ctl("pins");
  return pins.size() == 1 && pins[0]["grace"].is_number() && pins[0]["grace"] > 0;
}

bool no_pins(const Mount& mount) { return mount.ctl("pins").empty(); }

}  // namespace

TEST_CASE("the pins of a holder that was killed stay while any page of the machine is pinned") {
  need_mounts();
  Mount mount;
  auto at_work = std::make_unique<PinnedPage>();
  SECTION("refuse") {
    mount.remount("pin_policy=refuse,exit_grace=15s");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return in_grace(mount); }));
    CHECK(error_of(truncate(mount.path("f").c_str(), 0)) == ETXTBSY);
    at_work.reset();
    CHECK(eventually([&] { return no_pins(mount); }));
    CHECK(truncate(mount.path("f").c_str(), 0) == 0);
  }
  SECTION("defer") {
    mount.remount("pin_policy=defer,exit_grace=15s");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return in_grace(mount); }));
    REQUIRE(truncate(mount.path("f").c_str(), 0) == 0);
    CHECK(mount.limbo() == kLength);
    at_work.reset();
    CHECK(eventually([&] { return mount.limbo() == 0; }));
  }
  SECTION("wait") {
    mount.remount("pin_policy=wait,wait_timeout=200ms,exit_grace=15s");
    pin_and_die(mount.path("f"));
    CHECK(error_of(truncate(mount.path("f").c_str(), 0)) == ETXTBSY);
    at_work.reset();
    CHECK(eventually([&] { return no_pins(mount); }));
  }
  SECTION("the grace is over by itself") {
    mount.remount("pin_policy=refuse,exit_grace=300ms");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return no_pins(mount); }));
  }
  SECTION("no grace") {
    mount.remount("pin_policy=refuse,exit_grace=0");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return no_pins(mount); }));
  }
  SECTION("switched off while it lasts") {
    mount.remount("pin_policy=refuse,exit_grace=15s");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return in_grace(mount); }));
    CHECK(run({tool("daxfsctl"), "policy", mount.path(), "set", "exit_grace=0"}).code == 0);
    CHECK(eventually([&] { return no_pins(mount); }));
  }
  SECTION("over a remount") {
    mount.remount("pin_policy=refuse,exit_grace=15s");
    pin_and_die(mount.path("f"));
    CHECK(eventually([&] { return in_grace(mount); }));
    mount.kill_daemon();
    mount.mount("pin_policy=refuse,exit_grace=15s");
    CHECK(in_grace(mount));
    CHECK(error_of(truncate(mount.path("f").c_str(), 0)) == ETXTBSY);
    at_work.reset();
    CHECK(eventually([&] { return no_pins(mount); }));
  }
}

TEST_CASE("a living process gives its pins back at once, whatever is pinned elsewhere") {
  need_mounts();
  Mount mount;
  const PinnedPage at_work;
  mount.remount("pin_policy=refuse,exit_grace=15s");
  const std::string file = mount.path("f");
  UniqueFd fd = open_file(file, O_RDWR | O_CREAT);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, kLength, DAXFS_PIN_ALLOCATE, &pin) == 0);
  SECTION("by unpin") { REQUIRE(daxfs_unpin(fd.get(), pin) == 0); }
  SECTION("by close") { fd = UniqueFd(); }
  CHECK(eventually([&] { return no_pins(mount); }));
  CHECK(truncate(file.c_str(), 0) == 0);
}

TEST_CASE("it is not always the process that took a pin whose end closes its last descriptor") {
  need_mounts();
  Mount mount;
  auto at_work = std::make_unique<PinnedPage>();
  mount.remount("pin_policy=refuse,exit_grace=15s");
  const std::string file = mount.path("f");
  const auto pin = [&] {
    const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    std::uint64_t number = 0;
    const int result = daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &number);
    return result == 0 ? fd : -1;
  };
  SECTION("a forked child has the last one, and is killed; the parent goes on") {
    const int fd = pin();
    REQUIRE(fd >= 0);
    const pid_t child = fork();
    if (child == 0)
      for (;;) pause();
    close(fd);
    CHECK(mount.ctl("pins").size() == 1);
    kill(child, SIGKILL);
    CHECK(eventually([&] { return in_grace(mount); }));
    CHECK(error_of(truncate(file.c_str(), 0)) == ETXTBSY);
    waitpid(child, nullptr, 0);
  }
  SECTION("it executes another program") {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);  // whatever becomes of the test
      if (pin() >= 0) execl("/bin/sleep", "sleep", "60", nullptr);
      _exit(1);
    }
    CHECK(eventually([&] { return in_grace(mount); }));
    CHECK(error_of(truncate(file.c_str(), 0)) == ETXTBSY);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  at_work.reset();
  CHECK(eventually([&] { return no_pins(mount); }));
  CHECK(truncate(file.c_str(), 0) == 0);
}

TEST_CASE(
    "a forked child that maps the blocks keeps the pins of a killed parent, without a descriptor") {
  need_mounts();
  Mount mount;
  mount.remount(std::string("pin_policy=defer,exit_grace=") + GENERATE("0", "300ms"));
  const std::string file = mount.path("f");
  const SharedValue<pid_t> child;
  ReadyChild parent([&] {
    const int fd = open(file.c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t number = 0;
    std::size_t length = 0;
    if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &number) != 0) return 1;
    if (daxfs_map(fd, number, &length) == nullptr) return 2;
    const pid_t forked = fork();
    if (forked == 0) {
      alarm(120);  // whatever becomes of the test
      closefrom(0);
      for (;;) pause();
    }
    child.set(forked);
    return forked > 0 ? 0 : 3;
  });
  REQUIRE(parent.result() == 0);
  parent.kill();
  REQUIRE(truncate(file.c_str(), 0) == 0);
  // As long as it takes for all of the grace, and more.
  CHECK_FALSE(eventually([&] { return mount.limbo() != kLength; }, Seconds(2)));
  kill(child.get(), SIGKILL);
  CHECK(eventually([&] { return mount.limbo() == 0; }));
  CHECK(no_pins(mount));
}

TEST_CASE("a process whose first thread has ended gives its pins back by a close") {
  need_mounts();
  Mount mount;
  const PinnedPage at_work;
  mount.remount("pin_policy=refuse,exit_grace=60s");
  const std::string file = mount.path("f");
  int told[2];
  REQUIRE(pipe(told) == 0);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    static int fd, go;
    fd = open(file.c_str(), O_RDWR | O_CREAT, 0600);
    go = told[0];
    std::uint64_t number = 0;
    if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_ALLOCATE, &number) != 0) _exit(1);
    const auto body = [](void*) -> void* {
      char byte;
      if (read(go, &byte, 1) == 1) close(fd);
      for (;;) pause();
    };
    pthread_t thread;
    if (pthread_create(&thread, nullptr, body, nullptr) != 0) _exit(1);
    syscall(SYS_exit, 0);
  }
  CHECK(eventually([&] { return mount.ctl("pins").size() == 1; }));
  CHECK(eventually([&] {
    const auto first = read_stat("/proc/" + std::to_string(child));
    return first && first->is_zombie();
  }));
  CHECK(write(told[1], "x", 1) == 1);
  CHECK(eventually([&] { return no_pins(mount); }));
  for (const int end : told) close(end);
  CHECK(kill(child, 0) == 0);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
}

}  // namespace daxfs::test
