#include "base/process_end.h"

#include <linux/sched.h>
#include <pthread.h>
#include <sys/syscall.h>

#include <cerrno>
#include <string>
#include <thread>

#include "base/process_stat.h"
#include "base/process_table.h"
#include "tests/unit/catch.h"
#include "tests/unit/child_process.h"
#include "tests/unit/skip.h"

using namespace daxfs;
using daxfs::test::Child;
using daxfs::test::say_ready;

namespace {

void pause_for_ever() {
  for (;;) ::pause();
}

std::string directory_of(pid_t process) { return "/proc/" + std::to_string(process); }

// Reads a byte that another process writes when it has come so far.
class Signal {
 public:
  Signal() { REQUIRE(::pipe(ends_) == 0); }
  ~Signal() {
    for (const int end : ends_) ::close(end);
  }
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  void give() const { say_ready(ends_[1]); }
  void await() const {
    char byte;
    if (::read(ends_[0], &byte, 1) != 1) ::_exit(1);
  }

 private:
  int ends_[2];
};

// A process with this very number, as soon as it is free. 0: this user may not choose numbers.
pid_t fork_as(pid_t number) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<std::uint64_t>(&number);
  args.set_tid_size = 1;
  long child = -1;
  do {
    child = ::syscall(SYS_clone3, &args, sizeof args);
  } while (child < 0 && errno == EEXIST);
  if (child == 0) pause_for_ever();
  return child < 0 ? 0 : static_cast<pid_t>(child);
}

}  // namespace

TEST_CASE("the last close of a process that is killed is its end") {
  Child child([](int fd) {
    say_ready(fd);
    pause_for_ever();
  });
  const ProcessMark mark = mark_process(child.pid());
  CHECK(mark.process == child.pid());
  CHECK(mark.start_ticks != 0);
  CHECK(how_ends(mark) == Ending::goes_on);
  CHECK_FALSE(is_gone(mark));
  CHECK_FALSE(is_ending(mark));
  SECTION("dead") {
    child.end();
    CHECK(how_ends(mark) == Ending::ending);
    CHECK(is_gone(mark));
    CHECK(is_ending(mark));
  }
  SECTION("and buried") {
    child.end();
    child.reap();
    CHECK(how_ends(mark) == Ending::in_doubt);
    CHECK(is_gone(mark));
    CHECK(is_ending(mark));
  }
  SECTION("another has its number") {
    ProcessMark former = mark;
    --former.start_ticks;
    CHECK(how_ends(former) == Ending::in_doubt);
    CHECK(is_gone(former));
    CHECK(is_ending(former));
  }
}

TEST_CASE("who cannot be seen is in doubt") {
  const ProcessMark nobody = mark_process(0);
  CHECK(how_ends(nobody) == Ending::in_doubt);
  CHECK_FALSE(is_gone(nobody));
  CHECK(is_ending(nobody));
  CHECK(how_ends(mark_process(1 << 30)) == Ending::in_doubt);
}

TEST_CASE("a process whose first thread has ended goes on") {
  Child child([](int fd) {
    static int ready;
    ready = fd;
    pthread_t thread;
    const auto body = [](void*) -> void* {
      for (;;) {
        const auto stat = read_stat(directory_of(::getpid()));
        if (stat && stat->is_zombie()) break;
        ::sched_yield();
      }
      say_ready(ready);
      pause_for_ever();
      return nullptr;
    };
    if (::pthread_create(&thread, nullptr, body, nullptr) != 0) ::_exit(1);
    ::syscall(SYS_exit, 0);
  });
  const ProcessMark mark = mark_process(child.pid());
  CHECK(how_ends(mark) == Ending::goes_on);
  CHECK_FALSE(is_gone(mark));
  CHECK_FALSE(is_ending(mark));
  child.end();
  CHECK(how_ends(mark) == Ending::ending);
  CHECK(is_gone(mark));
  CHECK(is_ending(mark));
}

TEST_CASE("a child that ended may have been the one that closed") {
  bool wait_for_it = false;
  SECTION("it was not waited for") {}
  SECTION("it was waited for") { wait_for_it = true; }
  const Signal kill, bury, buried;
  Child parent([&](int fd) {
    const pid_t child = ::fork();
    if (child == 0) pause_for_ever();
    say_ready(fd);
    kill.await();
    ::kill(child, SIGKILL);
    siginfo_t info;
    ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | (wait_for_it ? 0 : WNOWAIT));
    buried.give();
    bury.await();
    ::waitpid(child, nullptr, 0);
  });
  const ProcessMark mark = mark_process(parent.pid());
  CHECK(how_ends(mark) == Ending::goes_on);
  kill.give();
  buried.await();
  CHECK(how_ends(mark) == Ending::in_doubt);
  // It happened before.
  const ProcessMark later = mark_process(parent.pid());
  CHECK(how_ends(later) == (wait_for_it ? Ending::goes_on : Ending::in_doubt));
  bury.give();
}

TEST_CASE("a process that executes another program has lost what it had mapped") {
  const Signal go;
  Child child([&](int fd) {
    say_ready(fd);
    go.await();
    ::execl("/bin/sleep", "sleep", "600", nullptr);
    ::_exit(1);
  });
  const ProcessMark mark = mark_process(child.pid());
  CHECK(how_ends(mark) == Ending::goes_on);
  go.give();
  while (mark_process(child.pid()).image == mark.image) ::sched_yield();
  CHECK(how_ends(mark) == Ending::in_doubt);
}

TEST_CASE("a number that was reused is not taken for its former owner") {
  ProcessTable table;
  Child first([](int fd) {
    say_ready(fd);
    pause_for_ever();
  });
  const pid_t number = first.pid();
  const PinOwner before = table.owner(number, 7);
  CHECK(before.start_time == process_start_time(number).value());
  CHECK(table.identity(number).mark.start_ticks == mark_process(number).start_ticks);
  CHECK(table.process(number) == number);
  first.end();
  first.reap();
  const auto end = [](pid_t process) {
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
  };
  // One that began in the same tick cannot be told.
  pid_t second = 0;
  while ((second = fork_as(number)) != 0 && process_start_time(number).value() == before.start_time)
    end(second);
  if (second == 0)
    daxfs::test::skip_test("needs root, and clone3(2), to choose a process's number");
  const PinOwner after = table.owner(number, 7);
  const std::uint64_t start = process_start_time(number).value();
  const ProcessMark mark = table.identity(number).mark;
  const ProcessMark fresh = mark_process(number);
  end(second);
  CHECK(after.start_time != before.start_time);
  CHECK(after.start_time == start);
  CHECK(mark.same_process(fresh));
}

TEST_CASE("a thread's number that was reused is not taken for the process of the former thread") {
  ProcessTable table;
  const Signal end;
  pid_t thread = 0;
  const Signal known;
  std::thread other([&] {
    thread = static_cast<pid_t>(::syscall(SYS_gettid));
    known.give();
    end.await();
  });
  known.await();
  CHECK(table.process(thread) == ::getpid());
  CHECK(table.process(thread) == ::getpid());
  end.give();
  other.join();
  const pid_t process = fork_as(thread);
  if (process == 0)
    daxfs::test::skip_test("needs root, and clone3(2), to choose a process's number");
  const pid_t found = table.process(thread);
  ::kill(process, SIGKILL);
  ::waitpid(process, nullptr, 0);
  CHECK(found == process);
}
