// kill -9 of the daemon under load, again and again on one pool: whatever was acknowledged is there
// after the next mount, and the free space is what the files leave.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <random>
#include <utility>

#include "tests/mount/crash_loads.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

// A process that does one operation of a load after the other and tells of each that was
// acknowledged, until one fails.
class Worker {
 public:
  // `step` does the next operation, in `directory` as its working directory: by its absolute path
  // it would find what lies below, once the dead mount is away. An errno.
  Worker(const std::string& directory, const std::function<int()>& step) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    told_ = daxfs::UniqueFd(ends[0]);
    const daxfs::UniqueFd tell(ends[1]);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ != 0) return;
    if (chdir(directory.c_str()) != 0) _exit(errno);
    for (;;) {
      const int code = step();
      const char byte = 1;
      if (code != 0 || write(tell.get(), &byte, 1) != 1) _exit(code);
    }
  }
  ~Worker() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Operations acknowledged so far.
  unsigned count() {
    char bytes[4096];
    for (ssize_t got = 0; (got = read(told_.get(), bytes, sizeof bytes)) > 0;) {
      count_ += static_cast<unsigned>(got);
    }
    return count_;
  }
  bool running() {
    return waitid(P_PID, static_cast<id_t>(pid_), &info_, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info_.si_pid == 0;
  }
  // Waits for its end: the errno that ended it.
  int finish() {
    REQUIRE(eventually([this] {
      count();
      return !running();
    }));
    int status = 0;
    REQUIRE(waitpid(std::exchange(pid_, -1), &status, 0) > 0);
    count();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  daxfs::UniqueFd told_;
  pid_t pid_ = -1;
  unsigned count_ = 0;
  siginfo_t info_{};
};

// What an operation in flight, or one after it, is told; a failed writeback is EIO.
bool is_of_a_dead_daemon(int code) {
  return code == ENOTCONN || code == ECONNABORTED || code == EIO;
}

struct Crash : Mount {
  Crash() : before_(umask(0)) { REQUIRE(mkdir(names_directory.c_str(), 0755) == 0); }
  ~Crash() { umask(before_); }

  template <class Load, class Perform>
  static std::function<int()> steps(Load& load, Perform perform) {
    return [&load, perform] {
      const auto operation = load.next();
      const int code = perform(load, operation);
      if (code == 0) load.done(operation);
      return code;
    };
  }
  template <class Load>
  static typename Load::Operation replay(Load& load, unsigned count) {
    for (unsigned i = 0; i < count; ++i) load.done(load.next());
    return load.next();
  }
  void check_names(NamesLoad& load, unsigned acknowledged) const {
    const auto pending = replay(load, acknowledged);
    NamesLoad after = load;
    after.done(pending);
    const std::string seen = NamesLoad::seen(names_directory);
    if (seen != after.expected()) {
      CHECK(seen == load.expected());
      REQUIRE(NamesLoad::perform(names_directory, pending) == 0);
    }
    load = after;
  }
  static void check_data(const std::string& path, DataLoad& load, unsigned acknowledged) {
    const auto pending = replay(load, acknowledged);
    CHECK(load.check(path, pending) == "");
    REQUIRE(load.perform(path, pending) == 0);
    load.done(pending);
  }
  const std::string names_directory = path("names");

 private:
  mode_t before_;
};

int rounds() {
  const char* const wanted = std::getenv("DAXFS_CRASH_ROUNDS");
  return wanted != nullptr ? std::atoi(wanted) : 8;
}

}  // namespace

TEST_CASE_METHOD(Crash, "what was acknowledged survives kill -9 of the daemon") {
  NamesLoad names(1);
  DataLoad direct(2, DataLoad::Way::direct);
  DataLoad synced(3, DataLoad::Way::fsync);
  std::mt19937 random(4);
  for (int round = 0; round < rounds(); ++round) {
    INFO("round " << round);
    Worker naming(names_directory, steps(names, [](const auto&, const auto& operation) {
                    return NamesLoad::perform(".", operation);
                  }));
    Worker writing(path(), steps(direct, [](const auto& load, const auto& operation) {
                     return load.perform("direct", operation);
                   }));
    Worker syncing(path(), steps(synced, [](const auto& load, const auto& operation) {
                     return load.perform("synced", operation);
                   }));
    const auto enough = 50 + random() % 1000;
    // Each has begun, or it would begin with what lies below the mount.
    REQUIRE(eventually([&] {
      const unsigned counts[] = {naming.count(), writing.count(), syncing.count()};
      return counts[0] > 0 && counts[1] > 0 && counts[2] > 0 &&
             counts[0] + counts[1] + counts[2] >= enough;
    }));
    CHECK(naming.running());
    CHECK(writing.running());
    CHECK(syncing.running());
    kill_daemon();
    CHECK(is_of_a_dead_daemon(naming.finish()));
    CHECK(is_of_a_dead_daemon(writing.finish()));
    CHECK(is_of_a_dead_daemon(syncing.finish()));

    mount();
    check_names(names, naming.count());
    check_data(path("direct"), direct, writing.count());
    check_data(path("synced"), synced, syncing.count());
    const std::uint64_t free_now = free();
    unmount();
    REQUIRE(check_pool() == free_now);
    mount();
    REQUIRE(free() == free_now);
  }
}

TEST_CASE_METHOD(Crash, "a holder outlives the daemon, and the next mount's limbo is empty") {
  unmount();
  mount("pin_policy=defer");
  write_file(path("f"), pattern(64 * kBlock, 1));
  HoldProcess holder(path("f"), 0, 64 * kBlock);
  REQUIRE(punch(path("f"), 0, 32 * kBlock) == 0);
  REQUIRE(limbo() == 32 * kBlock);
  const std::uint64_t before = free();
  kill_daemon();
  CHECK(holder.process().says("daemon gone"));
  CHECK(holder.stop().code == 0);
  mount("pin_policy=defer,exit_grace=0");  // other tests pin pages
  CHECK(limbo() == 0);
  CHECK(free() == before + 32 * kBlock);
  CHECK(data_parts(path("f")) == Parts{{32 * kBlock, 64 * kBlock}});
}

TEST_CASE_METHOD(Crash, "files unlinked or detached halfway are finished by the next mount") {
  const std::uint64_t before = free();
  for (int round = 0; round < 3; ++round) {
    write_fragmented(path("f"), 1500, 1);
    const daxfs::UniqueFd open_still = open_file(path("f"), O_RDONLY);
    Worker removing(path(), [] { return error_of(unlink("f")); });
    Worker churning(path(), [] {
      const int fd = open("g", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (fd < 0) return errno;
      int code = error_of(fallocate(fd, 0, 0, 4 << 20));
      for (int i = 0; code == 0 && i < 40; ++i) {
        code = error_of(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 65536, 4096));
      }
      if (code == 0) code = error_of(ftruncate(fd, 0));
      close(fd);
      return code != 0 ? code : error_of(unlink("g"));
    });
    REQUIRE(eventually([&] { return removing.count() >= 1 && churning.count() >= 3; }));
    kill_daemon();
    (void)removing.finish();
    CHECK(is_of_a_dead_daemon(churning.finish()));
    mount();
    CHECK(access(path("f").c_str(), F_OK) != 0);
    if (access(path("g").c_str(), F_OK) == 0) REQUIRE(unlink(path("g").c_str()) == 0);
    CHECK(space_becomes(before, 0));
    unmount();
    CHECK(check_pool() == before);
    mount();
  }
}
