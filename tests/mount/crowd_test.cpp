// Ten thousand requests that wait at once.
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kProcesses = 10;
constexpr std::size_t kMany = 10'000;
constexpr std::uint64_t kMostMemory = 64 << 20;

std::uint64_t number_in(const std::string& file, const std::string& key = {}) {
  std::ifstream in(file);
  for (std::string word; in >> word;) {
    if (key.empty() || word == key) {
      std::uint64_t number = 0;
      if (!key.empty()) in >> word;
      return std::sscanf(word.c_str(), "%lu", &number) == 1 ? number : UINT64_MAX;
    }
  }
  return UINT64_MAX;
}

// How many threads this machine lets us have beside what runs.
std::size_t affordable() {
  rlimit processes{};
  getrlimit(RLIMIT_NPROC, &processes);
  const std::uint64_t most =
      std::min({std::uint64_t(processes.rlim_cur), number_in("/sys/fs/cgroup/pids.max"),
                number_in("/proc/sys/kernel/threads-max"), number_in("/proc/sys/kernel/pid_max")});
  const std::uint64_t spare = most > 4000 ? (most - 4000) * 3 / 4 : 0;
  return std::min<std::uint64_t>(kMany, spare / kProcesses * kProcesses);
}

std::string crowd_file(const Mount& mount, std::size_t i) {
  return mount.path(fmt::format("d{}/f{}", i % kProcesses, i));
}

// A process whose threads each punch a file; 0 if all of them got `expected`.
int punch_all(const Mount& mount, std::size_t first, std::size_t count, int expected) {
  struct Work {
    std::string file;
    int expected;
    std::atomic<std::size_t>* wrong;
  };
  std::atomic<std::size_t> wrong = 0;
  std::vector<Work> works;
  for (std::size_t i = 0; i < count; ++i) {
    works.push_back({crowd_file(mount, first + i * kProcesses), expected, &wrong});
  }
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 << 10);
  std::vector<pthread_t> threads(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto body = [](void* argument) -> void* {
      const Work& work = *static_cast<Work*>(argument);
      if (punch_blocks(work.file, 0, 1) != work.expected) ++*work.wrong;
      return nullptr;
    };
    if (pthread_create(&threads[i], &small, body, &works[i]) != 0) return 2;
  }
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return wrong == 0 ? 0 : 1;
}

struct Crowd : Mount {
  Crowd() : Mount({.size = "256M", .options = "pin_policy=wait"}) {}
  std::vector<std::unique_ptr<Attempt>> gather(std::size_t count, int expected) {
    std::vector<std::unique_ptr<Attempt>> processes;
    for (std::size_t i = 0; i < kProcesses; ++i) {
      processes.push_back(std::make_unique<Attempt>(
          [=, this] { return punch_all(*this, i, count / kProcesses, expected); }));
    }
    REQUIRE(eventually([&] { return live_status(*this)["waiting"] == count; }, Seconds(120)));
    return processes;
  }
  std::uint64_t memory() const {
    return number_in(fmt::format("/proc/{}/status", daemon()), "VmRSS:") << 10;
  }
};

}  // namespace

TEST_CASE_METHOD(Crowd, "ten thousand requests wait, and the others do not notice") {
  const std::size_t count = affordable();
  if (count < kMany) WARN("this machine allows " << count << " waiting threads, not " << kMany);
  REQUIRE(count >= kProcesses);
  for (std::size_t i = 0; i < kProcesses; ++i) {
    REQUIRE(mkdir(path(fmt::format("d{}", i)).c_str(), 0755) == 0);
  }
  const std::string block = pattern(kBlock, 1);
  for (std::size_t i = 0; i < count; ++i) {
    write_at(open_file(crowd_file(*this, i), O_WRONLY | O_CREAT).get(), 0, block);
  }
  const std::uint64_t free_before = live_status(*this)["free"];
  Holder holder([&] {
    const rlimit files{count + 100, count + 100};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) return errno;
    for (std::size_t i = 0; i < count; ++i) {
      const int error = pin_and_keep(crowd_file(*this, i), 0, kBlock);
      if (error != 0) return error;
    }
    return 0;
  });
  REQUIRE(holder.result() == 0);
  REQUIRE(live_status(*this)["pins"]["long"] == count);

  const std::uint64_t memory_before = memory();
  auto begin = Clock::now();
  const auto seconds = [&] {
    const double taken = std::chrono::duration<double>(Clock::now() - begin).count();
    begin = Clock::now();
    return taken;
  };
  auto processes = gather(count, ETXTBSY);
  const double gathering = seconds();
  const std::uint64_t memory_during = memory();

  double slowest = 0;
  daxfs::UniqueFd other = open_file(path("other"), O_RDWR | O_CREAT | O_DIRECT);
  AlignedBuffer buffer(kBlock);
  for (int i = 0; i < 200; ++i) {
    seconds();
    write_at(other.get(), static_cast<std::uint64_t>(i) * kBlock, block);
    REQUIRE(pread(other.get(), buffer.data(), kBlock, static_cast<off_t>(i) * off_t(kBlock)) ==
            ssize_t(kBlock));
    slowest = std::max(slowest, seconds());
    CHECK(buffer.view() == block);
  }
  CHECK(slowest < 5);
  other = {};
  REQUIRE(unlink(path("other").c_str()) == 0);
  CHECK(live_status(*this)["waiting"] == count);

  seconds();
  REQUIRE(switch_policy(*this, "refuse") == 0);
  for (const auto& process : processes) CHECK(process->finish(Seconds(120)) == 0);
  const double refusing = seconds();
  CHECK(waiting_becomes(*this, 0));
  CHECK(read_file(crowd_file(*this, count - 1)) == block);

  REQUIRE(switch_policy(*this, "wait") == 0);
  processes = gather(count, 0);
  seconds();
  holder.die();
  for (const auto& process : processes) CHECK(process->finish(Seconds(120)) == 0);
  const double resuming = seconds();
  CHECK(space_settles(*this, free_before + count * kBlock, 0));
  CHECK(live_status(*this)["pins"]["long"] == 0);

  fmt::print(
      "{} requests waiting: parked in {:.1f} s, daemon {} KiB before and {} KiB while they wait, "
      "slowest 4K write and read beside them {:.1f} ms, refused by a switch in {:.2f} s, resumed "
      "by the holder's death in {:.2f} s\n",
      count, gathering, memory_before >> 10, memory_during >> 10, slowest * 1000, refusing,
      resuming);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // theirs is as much again
  CHECK(memory_during < memory_before + kMostMemory);
#endif
}
