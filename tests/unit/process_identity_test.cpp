#include "blockmap/process_identity.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

// A child that is killed and reaped at the end, if it was not before.
class Child {
 public:
  template <class Body>
  explicit Child(Body body) {
    REQUIRE(::pipe(pipe_) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      body(pipe_[1]);
      ::_exit(0);
    }
    ::close(pipe_[1]);
    char ready;
    REQUIRE(::read(pipe_[0], &ready, 1) == 1);
  }
  ~Child() {
    ::close(pipe_[0]);
    end();
    reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void end() {
    ::kill(pid_, SIGKILL);
    // Waits for its death, but leaves the zombie.
    siginfo_t info;
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  void reap() { ::waitpid(pid_, nullptr, 0); }

 private:
  int pipe_[2];
  pid_t pid_ = 0;
};

void say_ready(int fd) {
  if (::write(fd, "r", 1) != 1) ::_exit(1);
}

}  // namespace

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
  SECTION("no process") { other.process = 0; }
  SECTION("a negative number") { other.process = -1; }
  SECTION("a number that nobody has") { other.process = 1 << 30; }
  CHECK_FALSE(is_alive(other));
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
