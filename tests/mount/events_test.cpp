// Events, live: the file `.daxfs/events` and `daxfsctl events`.
#include <fcntl.h>
#include <poll.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Events : Mount {
  Events() { write_file(file, pattern(4 * kBlock, 1)); }
  const std::string file = path("f");
  const std::string events = path(".daxfs/events");
};

std::vector<Json> parsed(const std::string& text) {
  std::vector<Json> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    INFO(line);
    out.push_back(Json::parse(line));
  }
  return out;
}

bool can_read(int fd, int ms) {
  pollfd ready{fd, POLLIN, 0};
  return poll(&ready, 1, ms) == 1 && (ready.revents & POLLIN) != 0;
}

std::string read_some(int fd) {
  std::string buffer(1 << 16, '\0');
  const ssize_t got = read(fd, buffer.data(), buffer.size());
  REQUIRE(got >= 0);
  buffer.resize(static_cast<std::size_t>(got));
  return buffer;
}

// A daxfsctl that listens already.
struct Listener : Process {
  explicit Listener(const Mount& mount, bool json = true)
      : Process(json ? std::vector<std::string>{tool("daxfsctl"), "events", mount.path(), "--json"}
                     : std::vector<std::string>{tool("daxfsctl"), "events", mount.path()}) {
    // It hears of a change of policy; before, this goes unnoticed.
    REQUIRE(eventually([&] {
      run({tool("daxfsctl"), "policy", mount.path(), "set", "refuse"});
      return out().find("policy") != std::string::npos;
    }));
  }
};

}  // namespace

TEST_CASE_METHOD(Events, "what happens is told as it happens, a JSON object a line") {
  const daxfs::UniqueFd heard = open_file(events, O_RDONLY);
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  std::uint64_t lease = 0;
  REQUIRE(daxfs_pin(fd.get(), kBlock, 2 * kBlock, 0, &pin) == 0);
  REQUIRE(daxfs_lease(fd.get(), 0, kBlock, 0, &lease) == 0);
  CHECK(in_child([&] { return punch(file, 0, 4 * kBlock); }) == ETXTBSY);
  REQUIRE(run({tool("daxfsctl"), "policy", path(), "set", "defer"}).code == 0);
  CHECK(in_child([&] { return punch(file, 0, 4 * kBlock); }) == 0);
  REQUIRE(daxfs_unlease(fd.get(), lease) == 0);
  REQUIRE(daxfs_unpin(fd.get(), pin) == 0);

  const std::vector<Json> told = parsed(read_some(heard.get()));
  std::string kinds;
  for (const Json& event : told) {
    kinds += event["event"].get<std::string>() + " ";
    for (const char* key : {"time", "inode", "offset", "length", "policy", "pid"}) {
      CHECK(event.contains(key));
    }
  }
  CHECK(kinds == "pin lease refused policy break deferred unlease unpin freed ");
  REQUIRE(told.size() == 9);
  CHECK(told[0]["inode"] == status_of(file).st_ino);
  CHECK(told[0]["offset"] == kBlock);
  CHECK(told[0]["length"] == 2 * kBlock);
  CHECK(told[0]["pid"] == getpid());
  CHECK(told[0]["path"] == "/f");
  CHECK(told[2]["policy"] == "refuse");
  CHECK(told[2]["pid"] != getpid());
  CHECK(told[5]["policy"] == "defer");
  CHECK(told[8]["length"] == 2 * kBlock);
}

TEST_CASE_METHOD(Events, "events can be waited for, polled for, and not waited for") {
  const daxfs::UniqueFd heard = open_file(events, O_RDONLY | O_NONBLOCK);
  char byte = 0;
  CHECK(error_of(read(heard.get(), &byte, 1)) == EAGAIN);
  CHECK_FALSE(can_read(heard.get(), 0));
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  // A child polls and reads; what it waits for happens only afterwards.
  int ready[2];
  REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (write(ready[1], "x", 1) != 1) _exit(1);
    if (!can_read(heard.get(), 30'000)) _exit(2);
    std::string line(1000, '\0');
    const ssize_t got = read(heard.get(), line.data(), line.size());
    _exit(got > 0 && line.find("\"pin\"") != std::string::npos ? 0 : 3);
  }
  REQUIRE(read(ready[0], &byte, 1) == 1);
  REQUIRE(daxfs_pin(fd.get(), 0, kBlock, 0, &pin) == 0);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  close(ready[0]);
  close(ready[1]);

  CHECK(error_of(pread(heard.get(), &byte, 1, 10)) == ESPIPE);
  Process reader({"/bin/cat", events});
  REQUIRE(eventually([&] {
    run({tool("daxfsctl"), "policy", path(), "set", "refuse"});
    return reader.out().find("policy") != std::string::npos;
  }));
  // Other work goes on beside readers that wait.
  CHECK(read_file(file) == pattern(4 * kBlock, 1));
}

TEST_CASE_METHOD(Events, "a reader that waits can be interrupted and killed") {
  for (const int signal : {SIGTERM, SIGKILL}) {
    Process reader({"/bin/cat", events});
    REQUIRE(eventually([&] {
      run({tool("daxfsctl"), "policy", path(), "set", "refuse"});
      return reader.out().find("policy") != std::string::npos;
    }));
    reader.signal(signal);
    const Finished ended = reader.finish(kPatience);
    CHECK_FALSE(ended.timed_out);
    CHECK(ended.code == 128 + signal);
  }
  const int code = in_child([&] {
    struct sigaction act {};
    act.sa_handler = [](int) {};
    sigaction(SIGALRM, &act, nullptr);
    const int fd = open(events.c_str(), O_RDONLY);
    // Again and again: the first may come before the read.
    const itimerval soon{{0, 20'000}, {0, 20'000}};
    setitimer(ITIMER_REAL, &soon, nullptr);
    char byte = 0;
    return error_of(read(fd, &byte, 1));
  });
  CHECK(code == EINTR);
}

TEST_CASE_METHOD(Events,
                 "daxfsctl events ends well: by a signal, without a reader, with the mount") {
  for (const int signal : {SIGINT, SIGTERM}) {
    Listener listener(*this);
    listener.signal(signal);
    const Finished ended = listener.finish(kPatience);
    CHECK(ended.code == 0);
    CHECK_FALSE(parsed(ended.out).empty());
  }
  {
    Listener people(*this, false);
    CHECK(people.out().find("policy") != std::string::npos);
    CHECK(people.out().find('{') == std::string::npos);
  }
  {
    // Nothing happens at the gate: it notices by itself that `true` does not read.
    Process shell(
        {"/bin/sh", "-c", "(" + tool("daxfsctl") + " events " + path() + "; echo $? >&2) | true"});
    const Finished ended = shell.finish(kPatience);
    CHECK_FALSE(ended.timed_out);
    CHECK(eventually([&] { return shell.err() == "0\n"; }));
  }
  Listener last(*this);
  kill_daemon();
  const Finished ended = last.finish(kPatience);
  CHECK(ended.code == 0);
  CHECK(ended.err.find("the mount has ended") != std::string::npos);
  mount();
}

TEST_CASE_METHOD(Events, "a daemon that is told to end answers who waits for events") {
  Listener listener(*this);
  Process reader({"/bin/cat", events});
  REQUIRE(eventually([&] {
    run({tool("daxfsctl"), "policy", path(), "set", "refuse"});
    return reader.out().find("policy") != std::string::npos;
  }));
  REQUIRE(::kill(daemon(), SIGTERM) == 0);
  CHECK(listener.finish(kPatience).code == 0);
  CHECK_FALSE(reader.finish(kPatience).timed_out);
  end_of_daemon();
  mount();
}

TEST_CASE_METHOD(Events, "who listens first hears of the holders that have outlived a daemon") {
  HoldProcess holder(file, kBlock, 2 * kBlock, {"--read-only"});
  holder.process().signal(SIGSTOP);  // or it takes its pin over, sooner or later
  kill_daemon();
  mount();
  const Json pins = ctl("pins");
  REQUIRE(pins.size() == 1);
  CHECK(pins[0]["survivor"] == true);
  CHECK(run({tool("daxfsctl"), "pins", path()}).out.find("(survivor)") != std::string::npos);
  const daxfs::UniqueFd heard = open_file(events, O_RDONLY);
  const std::vector<Json> told = parsed(read_some(heard.get()));
  REQUIRE(told.size() == 1);
  CHECK(told[0]["event"] == "quarantine");
  CHECK(told[0]["pid"] == holder.process().pid());
  CHECK(told[0]["offset"] == kBlock);
  CHECK(told[0]["length"] == 2 * kBlock);
  CHECK(told[0]["pins"] == 1);
  holder.process().signal(SIGKILL);
  holder.process().finish();
  CHECK(parsed(read_some(heard.get()))[0]["event"] == "unpin");
}
