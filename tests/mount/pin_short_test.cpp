// Short-term pins: a detach waits for them, at most short_timeout, and while it waits nothing else
// does.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <memory>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBlocks = 8;

struct Patient : Mount {
  explicit Patient(const std::string& options = "short_timeout=60s") : Mount({.options = options}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
  }
  void pin(int fd, std::uint32_t flags = DAXFS_PIN_SHORT) {
    REQUIRE(daxfs_pin(fd, 0, kBlocks * kBlock, flags, &id) == 0);
  }
  bool waiting(int count) {
    return eventually([&] { return status()["waiting"] == count; });
  }
  const std::string file = path("f");
  std::uint64_t id = 0;
};

struct Impatient : Patient {
  Impatient() : Patient("short_timeout=300ms") {}
};

// The caller of a request that waits, as a process of its own.
std::vector<std::string> truncate_command(const std::string& file) {
  return {"/usr/bin/truncate", "-s", "0", file};
}

}  // namespace

TEST_CASE_METHOD(Patient, "a detach waits until the short-term pin is gone; nothing else waits") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  pin(fd.get());
  Process truncating(truncate_command(file));
  REQUIRE(waiting(1));

  CHECK(difference(read_file(file), pattern(kBlocks * kBlock, 1)) == "");
  CHECK(status_of(file).st_size == kBlocks * 4096);
  write_file(path("other"), "goes on");
  CHECK(read_file(path("other")) == "goes on");
  // New pins on the range queue up behind the request.
  std::uint64_t other = 0;
  CHECK(error_of(daxfs_pin(fd.get(), 0, 1, DAXFS_PIN_NOWAIT, &other)) == EAGAIN);
  CHECK(error_of(daxfs_pin(fd.get(), 0, 1, DAXFS_PIN_NOWAIT | DAXFS_PIN_SHORT, &other)) == EAGAIN);
  CHECK(truncating.running());

  REQUIRE(daxfs_unpin(fd.get(), id) == 0);
  const Finished done = truncating.finish();
  INFO(done.err);
  CHECK(done.code == 0);
  CHECK(status_of(file).st_size == 0);
  CHECK(waiting(0));
}

TEST_CASE_METHOD(Patient, "a killed request changes nothing, and a killed holder makes room") {
  std::optional<ReadyChild> holder(std::in_place, [&] {
    const int fd = open(file.c_str(), O_RDWR);
    std::uint64_t pin_id = 0;
    return error_of(daxfs_pin(fd, 0, kBlock, DAXFS_PIN_SHORT, &pin_id));
  });
  REQUIRE(holder->result() == 0);
  const Snapshot before(file);
  for (const int signal : {SIGTERM, SIGKILL}) {
    Process truncating(truncate_command(file));
    REQUIRE(waiting(1));
    truncating.signal(signal);
    CHECK(truncating.finish().code == 128 + signal);
    REQUIRE(waiting(0));
    CHECK(Snapshot(file) == before);
  }
  Process truncating(truncate_command(file));
  REQUIRE(waiting(1));
  holder.reset();
  CHECK(truncating.finish().code == 0);
  CHECK(status_of(file).st_size == 0);
}

TEST_CASE_METHOD(Patient, "a request that would wait for its own process alone is EDEADLK") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  pin(fd.get());
  const Snapshot before(file);
  CHECK(error_of(ftruncate(fd.get(), 0)) == EDEADLK);
  CHECK(punch(file, 0, kBlock) == EDEADLK);
  CHECK(Snapshot(file) == before);
  CHECK(daxfs_unpin(fd.get(), id) == 0);
  CHECK(error_of(ftruncate(fd.get(), 0)) == 0);
}

TEST_CASE_METHOD(Patient, "many requests wait at once, and none of them holds up the daemon") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  pin(fd.get());
  std::vector<std::unique_ptr<Process>> waiters;
  for (int i = 0; i < 20; ++i) waiters.push_back(std::make_unique<Process>(truncate_command(file)));
  // The kernel lets one of them through at a time: the others wait for its lock on the file.
  REQUIRE(eventually([&] { return status()["waiting"] >= 1; }));
  write_file(path("other"), "goes on");
  REQUIRE(daxfs_unpin(fd.get(), id) == 0);
  for (const auto& waiter : waiters) CHECK(waiter->finish().code == 0);
}

TEST_CASE_METHOD(Impatient, "after short_timeout a short-term pin counts as a long one") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  pin(fd.get());
  const Snapshot before(file);
  const auto begin = Clock::now();
  const Finished refused = run(truncate_command(file));
  CHECK(Clock::now() - begin >= std::chrono::milliseconds(300));
  CHECK(refused.code == 1);
  CHECK(refused.err.find("Text file busy") != std::string::npos);
  CHECK(Snapshot(file) == before);
}

TEST_CASE_METHOD(Impatient, "with defer, what short_timeout did not free goes to limbo") {
  const std::uint64_t full = free();
  remount("pin_policy=defer,short_timeout=50ms");
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  pin(fd.get());
  CHECK(run(truncate_command(file)).code == 0);
  CHECK(limbo() == kBlocks * kBlock);
  CHECK(free() == full);
  CHECK(daxfs_unpin(fd.get(), id) == 0);
  CHECK(limbo() == 0);
  CHECK(free() == full + kBlocks * kBlock);
}
