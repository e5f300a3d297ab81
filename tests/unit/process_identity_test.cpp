#include "base/process_identity.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "tests/unit/catch.h"
#include "tests/unit/child_process.h"
#include "tests/unit/skip.h"

using namespace daxfs;
using daxfs::test::Child;
using daxfs::test::say_ready;

TEST_CASE("a process is told from others, and from itself in another life") {
  const auto self = identify_process(::getpid(), ::getuid());
  REQUIRE(self);
  CHECK(self->process == ::getpid());
  CHECK(self->start_time != 0);
  CHECK(is_alive(*self));
  CHECK(*identify_process(::getpid(), ::getuid()) == *self);

  PinOwner other = *self;
  SECTION("another start") { ++other.start_time; }
  SECTION("another boot") { other.boot[15] ^= std::byte{1}; }
  SECTION("a negative number") { other.process = -1; }
  SECTION("a number that nobody has") { other.process = 1 << 30; }
  CHECK_FALSE(is_alive(other));
}

TEST_CASE("who cannot be seen counts as alive") {
  const PinOwner unnamed = describe_holder(0, 77);
  CHECK(unnamed.process == 0);
  CHECK(unnamed.start_time == 0);
  CHECK(unnamed.uid == 77);
  CHECK(unnamed.boot == *boot_id());
  CHECK(judge(unnamed).life == Life::unknown);
  CHECK(is_alive(unnamed));
  PinOwner former = unnamed;
  former.boot[3] ^= std::byte{1};
  CHECK(judge(former).life == Life::dead);

  // Named, but of unknown start: another process may have the number now.
  PinOwner self = describe_holder(::getpid(), ::getuid());
  CHECK(self == *identify_process(::getpid(), ::getuid()));
  CHECK(judge(self).life == Life::alive);
  CHECK(judge(self).process == ::getpid());
  self.start_time = 0;
  CHECK(judge(self).life == Life::unknown);
  self.process = 1 << 30;
  CHECK(judge(self).life == Life::dead);
}

TEST_CASE("a process of another pid namespace is no namesake of it") {
  PinOwner owner = *identify_process(::getpid(), ::getuid());
  CHECK(owner.pid_namespace == own_pid_namespace());
  // As an older daxfs has recorded it.
  owner.pid_namespace = 0;
  CHECK(judge(owner).life == Life::alive);
  owner.pid_namespace = own_pid_namespace() ^ 1;
  constexpr std::uint32_t kInitial = 0xEFFFFFFC;
  const bool sees_all = own_pid_namespace() == kInitial && ::geteuid() == 0;
  CHECK(judge(owner).life == (sees_all ? Life::dead : Life::unknown));
}

TEST_CASE("a process in a pid namespace below is found from the first one") {
  if (own_pid_namespace() != 0xEFFFFFFC || ::geteuid() != 0) {
    daxfs::test::skip_test("needs root, outside of containers");
  }
  pid_t inner = 0;
  Child child([](int fd) {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(1);
    const pid_t first = ::fork();
    if (first == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      say_ready(fd);
      for (;;) ::pause();
    }
    ::waitpid(first, nullptr, 0);
  });
  const std::string children =
      "/proc/" + std::to_string(child.pid()) + "/task/" + std::to_string(child.pid()) + "/children";
  FILE* const file = ::fopen(children.c_str(), "r");
  REQUIRE(file != nullptr);
  const int found = ::fscanf(file, "%d", &inner);
  ::fclose(file);
  REQUIRE(found == 1);
  // As a daemon in there would have recorded its first process.
  PinOwner owner = *identify_process(inner, 0);
  struct stat space {};
  REQUIRE(::stat(("/proc/" + std::to_string(inner) + "/ns/pid").c_str(), &space) == 0);
  owner.process = 1;
  owner.pid_namespace = static_cast<std::uint32_t>(space.st_ino);
  CHECK(judge(owner).life == Life::alive);
  CHECK(judge(owner).process == inner);
  ++owner.start_time;
  CHECK(judge(owner).life == Life::dead);
}

TEST_CASE("a boot has an identity that stays") {
  const auto id = boot_id();
  REQUIRE(id);
  CHECK(*id == *boot_id());
  CHECK(*id != std::array<std::byte, 16>{});
}

TEST_CASE("the name of a command does not confuse") {
  Child child([](int fd) {
    ::prctl(PR_SET_NAME, "a) Z 1 (b");
    say_ready(fd);
    ::pause();
  });
  const auto owner = identify_process(child.pid(), 0);
  REQUIRE(owner);
  CHECK(is_alive(*owner));
  CHECK(owner->start_time >= identify_process(::getpid(), 0)->start_time);
}

TEST_CASE("a zombie is dead, and so is who has gone") {
  Child child([](int fd) {
    say_ready(fd);
    ::pause();
  });
  const auto owner = identify_process(child.pid(), 0);
  REQUIRE(owner);
  CHECK(is_alive(*owner));
  child.end();
  CHECK_FALSE(is_alive(*owner));
  CHECK(process_start_time(child.pid()).error().code == ESRCH);
  CHECK(identify_process(child.pid(), 0).error().code == ESRCH);
  child.reap();
  CHECK_FALSE(is_alive(*owner));
}

TEST_CASE("a process lives as long as any of its threads") {
  Child child([](int fd) {
    // The second thread waits until the first is a zombie, then says so.
    static int ready;
    ready = fd;
    pthread_t thread;
    const auto body = [](void*) -> void* {
      const std::string path = "/proc/" + std::to_string(::getpid()) + "/stat";
      for (;;) {
        FILE* file = ::fopen(path.c_str(), "r");
        char state = 0;
        const int found = file == nullptr ? 0 : ::fscanf(file, "%*d (%*[^)]) %c", &state);
        if (file != nullptr) ::fclose(file);
        if (found == 1 && state == 'Z') break;
        ::sched_yield();
      }
      say_ready(ready);
      for (;;) ::pause();
    };
    if (::pthread_create(&thread, nullptr, body, nullptr) != 0) ::_exit(1);
    // Not pthread_exit(), which would unwind through the test.
    ::syscall(SYS_exit, 0);
  });
  const auto owner = identify_process(child.pid(), 0);
  REQUIRE(owner);
  CHECK(is_alive(*owner));
  child.end();
  CHECK_FALSE(is_alive(*owner));
}
