// Direct access on real mounts: what a program sees, who is kept out, and clients that die, are
// stopped, or outlive the daemon, in the middle of a copy.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "client/daxfs.h"
#include "tests/mount/direct_client.h"
#include "tests/mount/direct_run.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Impatient : DirectMount {
  Impatient() : DirectMount("short_timeout=100ms") {}
};

}  // namespace

TEST_CASE_METHOD(DirectMount,
                 "direct: reads and writes are those of the file, without system calls") {
  Direct direct(file);
  CHECK(attached(1));
  CHECK(difference(direct.read(0, kBlocks * kBlock), pattern(kBlocks * kBlock, 1)) == "");
  CHECK(direct.read(100, 50) == pattern(kBlocks * kBlock, 1).substr(100, 50));
  CHECK(direct.read(kBlocks * kBlock - 10, 100).size() == 10);
  CHECK(direct.read(kBlocks * kBlock, 100).empty());
  direct.write(4090, "across a border");
  CHECK(direct.counts().by_kernel == 0);
  CHECK(direct.counts().direct == 5);
  const daxfs::UniqueFd other = open_file(file, O_RDWR);
  CHECK(read_at(other.get(), 4090, 15) == "across a border");
  write_at(other.get(), 8000, "by somebody else");
  CHECK(direct.read(8000, 16) == "by somebody else");

  iovec parts[2];
  std::string a(5, '?'), b(10, '?');
  parts[0] = {a.data(), a.size()};
  parts[1] = {b.data(), b.size()};
  REQUIRE(daxfs_preadv(direct.direct, parts, 2, 4090) == 15);
  CHECK(a + b == "across a border");
  std::memcpy(a.data(), "ACROS", 5);
  REQUIRE(daxfs_pwritev(direct.direct, parts, 2, 4090) == 15);
  CHECK(read_at(other.get(), 4090, 15) == "ACROSs a border");
  CHECK(direct.counts().by_kernel == 0);
  const std::vector<iovec> too_many(IOV_MAX + 1, iovec{a.data(), 1});
  CHECK(daxfs_preadv(direct.direct, too_many.data(), IOV_MAX + 1, 0) == -1);
  CHECK(errno == EINVAL);
}

TEST_CASE_METHOD(DirectMount,
                 "direct: what makes a file longer or fills it is a system call, and seen") {
  Direct direct(file);
  direct.write(kBlocks * kBlock, "longer");
  CHECK(status_of(file).st_size == kBlocks * kBlock + 6);
  CHECK(direct.read(kBlocks * kBlock, 100) == "longer");
  REQUIRE(ftruncate(open_file(file, O_RDWR).get(), 100 * kBlock) == 0);
  CHECK(direct.read(50 * kBlock, 3 * kBlock) == std::string(3 * kBlock, '\0'));
  const daxfs::UniqueFd other = open_file(file, O_RDWR);
  write_at(other.get(), 51 * kBlock, "filled");
  CHECK(direct.read(51 * kBlock, 6) == "filled");
  direct.write(70 * kBlock, "by itself");
  CHECK(direct.read(70 * kBlock, 9) == "by itself");
  CHECK(punch(file, 0, kBlock) == 0);
  CHECK(direct.read(0, kBlock) == std::string(kBlock, '\0'));
  REQUIRE(truncate(file.c_str(), 10) == 0);
  CHECK(direct.read(0, 100) == std::string(10, '\0'));
}

TEST_CASE_METHOD(DirectMount, "direct: the times of a file follow what is written") {
  Direct direct(file);
  const auto before = status_of(file);
  next_tick();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the client's clock is a coarse one
  CHECK(status_of(file).st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  direct.write(0, "new");
  const auto after = status_of(file);
  CHECK(std::pair(after.st_mtim.tv_sec, after.st_mtim.tv_nsec) >
        std::pair(before.st_mtim.tv_sec, before.st_mtim.tv_nsec));
  // Also one that lies in the future.
  const timespec later[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                             {.tv_sec = before.st_mtim.tv_sec + 3600, .tv_nsec = 0}};
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), later, 0) == 0);
  CHECK(status_of(file).st_mtim.tv_sec == later[1].tv_sec);
  direct.write(0, "old");
  CHECK(status_of(file).st_mtim.tv_sec < later[1].tv_sec);
}

TEST_CASE_METHOD(DirectMount, "direct: threads that come and go, and many at once, all copy") {
  Direct direct(file);
  direct.read(0, 1);
  constexpr int kEach = 20;
  std::atomic<int> wrong = 0;
  const auto copy = [&] {
    for (int i = 0; i < kEach; ++i) {
      char byte = 0;
      const auto at = static_cast<std::uint64_t>(i);
      if (daxfs_pread(direct.direct, &byte, 1, at) != 1 || byte != pattern(kBlock, 1)[at]) ++wrong;
    }
  };
  // More than a page has slots, so each gives its own back.
  const auto before = direct.counts();
  for (int i = 0; i < 100; ++i) std::thread(copy).join();
  CHECK(direct.counts().direct == before.direct + 100 * kEach);
  CHECK(direct.counts().by_kernel == before.by_kernel);
  std::vector<std::thread> many;
  for (int i = 0; i < 70; ++i) many.emplace_back(copy);
  CHECK(shrink(file, kBlock) == 0);
  for (std::thread& thread : many) thread.join();
  CHECK(wrong == 0);
  CHECK(shrink(file, 0) == 0);
}

TEST_CASE_METHOD(DirectMount, "direct: whoever cannot open the pool for writing is kept out") {
  REQUIRE(chmod(pool().c_str(), 0644) == 0);
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  const auto attach_as = [&](uid_t user, int flags) {
    return in_child(
        [&] {
          const int fd = open(file.c_str(), flags);
          daxfs_direct* const direct = daxfs_attach(fd);
          return direct == nullptr ? errno : 0;
        },
        user);
  };
  CHECK(attach_as(1234, O_RDWR) == EACCES);
  CHECK(attach_as(0, O_RDONLY) == 0);
  CHECK(attach_as(0, O_WRONLY) == 0);
  // A proof that was not given.
  CHECK(in_child([&] {
          const int fd = open(file.c_str(), O_RDWR | O_DIRECT);
          daxfs_attach_args args = {};
          args.proof = 42;
          return error_of(ioctl(fd, DAXFS_IOC_ATTACH, &args));
        }) == EACCES);
  CHECK(attached(0));
  CHECK(limbo() == 0);
}

TEST_CASE("direct: a mount without the option has none") {
  Mount mount;
  write_file(mount.path("f"), "x");
  const daxfs::UniqueFd fd = open_file(mount.path("f"), O_RDWR);
  CHECK(daxfs_attach(fd.get()) == nullptr);
  CHECK(errno == EOPNOTSUPP);
}

TEST_CASE_METHOD(DirectMount, "direct: an ordinary mapping meets everybody in the kernel") {
  const daxfs::UniqueFd cached = open_file(file, O_RDWR);
  Direct direct(file);
  void* const view = mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, cached.get(), 0);
  REQUIRE(view != MAP_FAILED);
  auto* const bytes = static_cast<char*>(view);
  CHECK(bytes[5] == pattern(kBlock, 1)[5]);
  for (int i = 0; i < 50; ++i) {
    const std::string text = "turn " + std::to_string(i);
    direct.write(0, text);
    CHECK(std::string(bytes, text.size()) == text);
    std::memcpy(bytes, text.data(), 4);
    bytes[2000] = static_cast<char>('a' + i % 26);
    CHECK(direct.read(2000, 1) == std::string(1, bytes[2000]));
    if (i % 10 == 9) std::this_thread::sleep_for(std::chrono::milliseconds(120));
  }
  munmap(view, kBlock);
}

TEST_CASE_METHOD(DirectMount, "direct: a truncate waits for a copy, and for nobody who is dead") {
  const std::uint64_t before = free();
  std::optional<HalfCopy> copy(file);
  Attempt truncating([&] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  CHECK(live_list(*this, DAXFS_QUERY_ATTACHED).size() == 1);
  SECTION("it ends") { copy->finish(); }
  SECTION("its process is killed") { copy->die(); }
  CHECK(truncating.finish() == 0);
  copy.reset();
  CHECK(attached(0));
  CHECK(space_becomes(before + kBlocks * kBlock, 0));
}

TEST_CASE_METHOD(Impatient,
                 "direct: a copy that does not end is refused for, or keeps its blocks") {
  const std::string policy = GENERATE("refuse", "defer", "ignore");
  remount("direct,short_timeout=100ms,unsafe_demo,pin_policy=" + policy);
  HalfCopy copy(file);
  const int error = shrink(file, 0);
  CHECK(error == (policy == "refuse" ? ETXTBSY : 0));
  // Somebody else takes all that is free.
  const std::string taken = path("taken");
  const daxfs::UniqueFd fd = open_file(taken, O_RDWR | O_CREAT | O_DIRECT);
  const std::string some(1 << 20, 't');
  while (write(fd.get(), some.data(), some.size()) > 0) {
  }
  copy.finish();
  const std::string seen = read_at(fd.get(), 0, static_cast<std::size_t>(status_of(taken).st_size));
  const bool damaged = seen.find('#') != std::string::npos;
  CHECK(damaged == (policy == "ignore"));
}

TEST_CASE_METHOD(DirectMount,
                 "direct: copies go on while the daemon is dead, and end at the next mount") {
  auto copy = std::make_unique<HalfCopy>(file);
  Direct direct(file);
  direct.write(0, "before");
  const std::uint64_t before = free();
  kill_daemon();
  // Nobody has closed it yet.
  direct.write(0, "without");
  CHECK(direct.read(0, 7) == "without");
  mount("direct,short_timeout=100ms");
  CHECK(read_file(file).substr(0, 7) == "without");
  char byte = 0;
  CHECK(daxfs_pread(direct.direct, &byte, 1, 0) ==
        -1);  // its descriptor is of a mount that is gone
  CHECK(free() <= before);
  CHECK(shrink(file, 0) == ETXTBSY);
  copy->finish();
  CHECK(eventually([&] { return shrink(file, 0) == 0; }));
  copy.reset();
  CHECK(eventually([&] { return limbo() <= daxfs::test::kBlock; }));
}

TEST_CASE("direct: clients beside detaches of every kind see nothing foreign, and damage nobody") {
  const std::string policy = GENERATE("refuse", "defer", "wait", "break");
  // Who waits for a client that is stopped does so in the process that would let it go on.
  Mount mount(
      {.size = "8M+",
       .options =
           "direct,short_timeout=50ms,wait_timeout=50ms,break_timeout=50ms,pin_policy=" + policy});
  const std::uint64_t before = mount.free();
  const DirectFound found = run_direct(
      mount.path(),
      {.seconds = 1, .readers = 1, .writers = 1, .stop_clients = true, .kill_clients = true});
  INFO(found.first);
  CHECK(found.foreign == 0);
  CHECK(found.direct > 0);
  CHECK(found.detaches > 0);
  CHECK(mount.space_becomes(before, 0));
}
