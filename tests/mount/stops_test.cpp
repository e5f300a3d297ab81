// What happens to a request that waits when its process is stopped, traced or frozen, and to its
// place when it is repeated.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <ctime>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

char state_of(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(stat, text);
  const auto name_end = text.rfind(')');
  return name_end == std::string::npos ? '?' : text.at(name_end + 2);
}

struct Stopping : Mount {
  Stopping() : Mount({.options = "pin_policy=wait"}) {
    write_file(file, pattern(8 * kBlock, 1));
    holder = std::make_unique<Holder>([this] { return pin_and_keep(file, 0, kBlock); });
    REQUIRE(holder->result() == 0);
  }
  const std::string file = path("f");
  std::unique_ptr<Holder> holder;
};

// Attaches to a process, as strace -p and gdb -p do, and lets it go when it has stopped.
void trace_shortly(pid_t process) {
  REQUIRE(ptrace(PTRACE_SEIZE, process, nullptr, nullptr) == 0);
  REQUIRE(ptrace(PTRACE_INTERRUPT, process, nullptr, nullptr) == 0);
  int status = 0;
  REQUIRE(waitpid(process, &status, __WALL) == process);
  CHECK(WIFSTOPPED(status));
  REQUIRE(ptrace(PTRACE_DETACH, process, nullptr, nullptr) == 0);
}

// The clock, an hour ahead until the end. Only where it is nobody else's.
class WrongClock {
 public:
  WrongClock() { move(3600); }
  ~WrongClock() { move(-3600); }
  WrongClock(const WrongClock&) = delete;
  WrongClock& operator=(const WrongClock&) = delete;

 private:
  static void move(time_t seconds) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += seconds;
    if (clock_settime(CLOCK_REALTIME, &now) != 0) FAIL_CHECK("the clock cannot be set");
  }
};

// A cgroup of its own for one process; gone at the end.
class Freezer {
 public:
  Freezer() {
    REQUIRE(mkdir(root_.c_str(), 0700) == 0);
    if (::mount("none", root_.c_str(), "cgroup2", 0, nullptr) != 0 ||
        mkdir(directory_.c_str(), 0700) != 0 || !std::ifstream(directory_ + "/cgroup.freeze")) {
      end();
      skip_here("no cgroup with a freezer can be made here");
    }
  }
  ~Freezer() {
    write("cgroup.freeze", "0");
    end();
  }
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;

  bool write(const std::string& name, const std::string& text) const {
    std::ofstream file(directory_ + "/" + name);
    file << text << std::flush;
    return file.good();
  }
  bool frozen() const {
    std::ifstream events(directory_ + "/cgroup.events");
    for (std::string line; std::getline(events, line);) {
      if (line == "frozen 1") return true;
    }
    return false;
  }

 private:
  void end() const {
    eventually([this] { return rmdir(directory_.c_str()) == 0 || errno == ENOENT; });
    umount2(root_.c_str(), 0);
  }
  const TempDir temporary_;
  // Mounted here, since not every system has it where systemd has.
  const std::string root_ = temporary_.path("cgroups");
  const std::string directory_ = root_ + "/daxfs-test-" + std::to_string(getpid());
};

}  // namespace

TEST_CASE_METHOD(Stopping,
                 "a waiter that is stopped or traced is so at once, and then gets EINTR") {
  const Snapshot before(file);
  Attempt waiter([this] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  SECTION("stopped") {
    waiter.signal(SIGSTOP);
    CHECK(eventually([&] { return state_of(waiter.pid()) == 'T'; }));
    CHECK(waiting_becomes(*this, 0));
    waiter.signal(SIGCONT);
  }
  SECTION("traced") { trace_shortly(waiter.pid()); }
  CHECK(waiter.finish() == EINTR);
  CHECK(Snapshot(file) == before);
}

TEST_CASE_METHOD(Stopping, "a waiter that is frozen is so at once, and then gets EINTR") {
  const Freezer freezer;
  Attempt waiter([this] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  REQUIRE(freezer.write("cgroup.procs", std::to_string(waiter.pid())));
  REQUIRE(freezer.write("cgroup.freeze", "1"));
  CHECK(eventually([&] { return freezer.frozen(); }));
  CHECK(waiting_becomes(*this, 0));
  REQUIRE(freezer.write("cgroup.freeze", "0"));
  CHECK(waiter.finish() == EINTR);
}

TEST_CASE_METHOD(Stopping, "who repeats what was interrupted has its old place") {
  Attempt waiter([this] {
    int error = shrink(file, 0);
    for (; error == EINTR; error = shrink(file, 0)) raise(SIGSTOP);
    return error;
  });
  REQUIRE(waiting_becomes(*this, 1));
  waiter.signal(SIGSTOP);  // and once more by itself, when it has been interrupted
  REQUIRE(waiting_becomes(*this, 0));
  REQUIRE(eventually([&] { return state_of(waiter.pid()) == 'T'; }));
  waiter.signal(SIGCONT);
  REQUIRE(eventually([&] { return state_of(waiter.pid()) == 'T'; }));

  const UniqueFd fd = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  CHECK(error_of(daxfs_pin(fd.get(), kBlock, kBlock, DAXFS_PIN_NOWAIT, &pin)) == EAGAIN);
  Attempt newer([this] { return pin_and_keep(file, kBlock, kBlock); });
  REQUIRE(waiting_becomes(*this, 1));
  SECTION("repeated, it goes first") {
    REQUIRE(eventually([&] {
      waiter.signal(SIGCONT);
      return live_status(*this)["waiting"] == 2;
    }));
    holder.reset();
    CHECK(waiter.finish() == 0);
    CHECK(newer.finish() == ENXIO);  // a hole
  }
  SECTION("if it dies, nobody waits for it") {
    waiter.signal(SIGKILL);
    CHECK(newer.finish(Seconds(8)) == 0);
    CHECK(waiter.finish() == -SIGKILL);
  }
}

TEST_CASE_METHOD(Stopping, "what the clock says takes nobody's old place") {
  need_own_machine();
  Attempt waiter([this] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  waiter.signal(SIGSTOP);
  REQUIRE(waiting_becomes(*this, 0));
  REQUIRE(eventually([&] { return state_of(waiter.pid()) == 'T'; }));
  const WrongClock wrong;
  const UniqueFd fd = open_file(file, O_RDWR);
  const auto gets_in = [&] {
    std::uint64_t pin = 0;
    return daxfs_pin(fd.get(), kBlock, kBlock, DAXFS_PIN_NOWAIT, &pin) == 0;
  };
  // Whether such processes have ended is looked at ten times a second.
  CHECK_FALSE(eventually(gets_in, Seconds(2)));
}

}  // namespace daxfs::test
