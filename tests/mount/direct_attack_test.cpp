// Direct access under attack: clients that fork, scribble, hold on to what they have closed, come
// by the thousand; storage that is lost below a copy; and that copies begin again after each kind
// of detach, however it went.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "client/daxfs.h"
#include "tests/mount/direct_client.h"
#include "tests/mount/process.h"

using namespace daxfs::test;

namespace {

// Whether the next few reads are copies again: those that meet a closed file ask anew.
bool copies_again(Direct& direct) {
  return eventually([&] {
    const auto before = direct.counts().direct;
    direct.read(0, 16);
    return direct.counts().direct > before;
  });
}

}  // namespace

TEST_CASE("direct: copies begin again after every detach, and after those that were refused") {
  Mount mount({.options = "direct,short_timeout=100ms,wait_timeout=100ms,break_timeout=100ms"});
  const std::string policy = GENERATE("refuse", "defer", "wait", "break");
  REQUIRE(switch_policy(mount, "pin_policy=" + policy) == 0);
  const bool pinned = GENERATE(false, true);
  write_file(mount.path("f"), "");
  for (const Detach& detach : kDetaches) {
    INFO(policy << ", " << (pinned ? "pinned, " : "") << detach.name);
    make_victim(mount, 2 * kBlocks, false);
    Direct direct(mount.path("f"));
    REQUIRE(copies_again(direct));
    std::optional<Holder> holder;
    if (pinned) holder.emplace([&] { return pin_and_keep(mount.path("f"), 0, kBlocks * kBlock); });
    const bool refused = pinned && policy != "defer";
    CHECK(detach.act(mount) == (refused ? ETXTBSY : 0));
    // Of a file that has been replaced, too.
    CHECK(copies_again(direct));
  }
}

TEST_CASE("direct: copies begin again after a detach that was interrupted while it waited") {
  DirectMount mount("pin_policy=wait");
  Direct direct(mount.file);
  Holder holder([&] { return pin_and_keep(mount.file, 0, kBlock); });
  REQUIRE(copies_again(direct));
  for (const int number : {SIGUSR1, SIGKILL}) {
    Attempt truncating([&] {
      struct sigaction interrupt {};
      interrupt.sa_handler = [](int) {};
      sigaction(SIGUSR1, &interrupt, nullptr);
      return shrink(mount.file, 0);
    });
    REQUIRE(waiting_becomes(mount, 1));
    truncating.signal(number);
    CHECK(truncating.finish() == (number == SIGKILL ? -SIGKILL : EINTR));
    CHECK(copies_again(direct));
  }
}

TEST_CASE_METHOD(DirectMount, "direct: a doorbell that is mapped beyond its close ends later") {
  write_file(path("another"), "");  // so that the directory stays as it is
  const std::uint64_t before = free();
  daxfs::UniqueFd fd = open_file(file, O_RDWR | O_DIRECT);
  daxfs::client::Attached held;
  REQUIRE(daxfs::client::attach_and_map(fd.get(), &held));
  fd = daxfs::UniqueFd();
  const auto list = [&] { return live_list(*this, DAXFS_QUERY_ATTACHED); };
  // RELEASE comes later than the close.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(list().size() == 1);
  CHECK(limbo() == kBlock);
  // The kernel knows of nobody who can write.
  daxfs_remount_args read_only{.read_only = 1, .reserved = 0};
  const daxfs::UniqueFd root = open_file(path(), O_RDONLY | O_DIRECTORY);
  CHECK(ioctl(root.get(), DAXFS_IOC_REMOUNT, &read_only) == -1);
  CHECK(errno == EBUSY);
  // A detach knows of it, and the file keeps the rest as if it were open.
  CHECK(shrink(file, kBlock) == 0);
  const std::uint64_t shorter = before + (kBlocks - 2) * kBlock;  // without the doorbell
  CHECK(space_becomes(shorter, kBlock));
  CHECK(unlink(file.c_str()) == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK(space_becomes(shorter, kBlock));
  daxfs::client::unmap_and_detach(-1, &held);
  // Nobody does anything that would tell the daemon.
  CHECK(attached(0));
  CHECK(space_becomes(before + kBlocks * kBlock, 0));
}

TEST_CASE_METHOD(DirectMount, "direct: parent and child of a fork, each by itself") {
  Direct direct(file);
  REQUIRE(copies_again(direct));
  direct.write(0, "of the parent");
  const int result = in_child([&] {
    // What the parent has attached goes by system call.
    daxfs_counts before, after;
    daxfs_direct_counts(direct.direct, &before);
    char seen[13];
    if (daxfs_pread(direct.direct, seen, sizeof seen, 0) != sizeof seen) return errno;
    if (std::memcmp(seen, "of the parent", sizeof seen) != 0) return EILSEQ;
    if (daxfs_pwrite(direct.direct, "by the child ", 13, kBlock) != 13) return errno;
    daxfs_direct_counts(direct.direct, &after);
    if (after.direct != before.direct) return EBADE;
    // And it has one of its own.
    const int fd = open(file.c_str(), O_RDWR);
    daxfs_direct* const own = daxfs_attach(fd);
    if (own == nullptr) return errno;
    if (daxfs_pwrite(own, "of the child", 12, 2 * kBlock) != 12) return errno;
    daxfs_direct_counts(own, &after);
    if (after.direct != 1) return ENOMSG;
    daxfs_detach(direct.direct);
    return 0;  // without detaching what is its own
  });
  CHECK(result == 0);
  CHECK(attached(1));
  CHECK(direct.read(kBlock, 12) == "by the child");
  CHECK(direct.read(2 * kBlock, 12) == "of the child");
  REQUIRE(copies_again(direct));
  CHECK(shrink(file, 0) == 0);
}

TEST_CASE_METHOD(DirectMount, "direct: a fork in the middle of other threads' attaching") {
  std::atomic<bool> over = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!over) {
        const int fd = open(file.c_str(), O_RDWR);
        daxfs_detach(daxfs_attach(fd));
        close(fd);
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    const int result = in_child([&] {
      const int fd = open(file.c_str(), O_RDWR);
      char byte = 0;
      daxfs_direct* const own = daxfs_attach(fd);
      return own != nullptr && daxfs_pread(own, &byte, 1, 0) == 1 ? 0 : errno;
    });
    CHECK(result == 0);
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(attached(0));
}

TEST_CASE("direct: who scribbles over a doorbell hurts nobody else") {
  DirectMount mount("short_timeout=50ms");
  write_file(mount.path("other"), pattern(kBlocks * kBlock, 2));
  Direct other(mount.path("other"));
  Holder scribbler([&] {
    const int fd = open(mount.file.c_str(), O_RDWR | O_DIRECT);
    static daxfs::client::Attached held;
    if (!daxfs::client::attach_and_map(fd, &held)) return errno;
    // Before the thread: as a client that is right, for whom a detach waits.
    auto* const slot =
        daxfs::doorbell::claim(*held.page, daxfs::doorbell::Attachment{held.terms.attachment});
    if (slot == nullptr) return EAGAIN;
    new std::thread([] {
      auto* const words = reinterpret_cast<std::uint64_t*>(held.page);
      std::mt19937_64 random(7);
      for (std::uint64_t n = 0;; ++n) {
        const std::uint64_t some[] = {random(), held.terms.attachment, 0, UINT64_MAX, n};
        const std::size_t at = random() % (kBlock / 8);
        std::atomic_ref<std::uint64_t>(words[at]).store(some[random() % 5]);
      }
    });
    return 0;
  });
  REQUIRE(scribbler.result() == 0);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 5; ++i) {
    const int error = shrink(mount.file, (kBlocks - 1) * kBlock);
    CHECK((error == 0 || error == ETXTBSY));
    write_at(open_file(mount.file, O_RDWR).get(), 0, pattern(kBlocks * kBlock, 1));
    CHECK(status_of(mount.file).st_mtim.tv_sec <= std::time(nullptr) + 1);
    live_list(mount, DAXFS_QUERY_ATTACHED);
    CHECK(other.read(0, kBlocks * kBlock) == pattern(kBlocks * kBlock, 2));
  }
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
  CHECK(copies_again(other));
  scribbler.end();
  CHECK(mount.attached(1));
  CHECK(shrink(mount.file, 0) == 0);
  CHECK(shrink(mount.path("other"), 0) == 0);
}

TEST_CASE_METHOD(DirectMount,
                 "direct: a doorbell in another place than the daemon's counts nobody") {
  // A client that maps the wrong page copies uncounted: it could write to all of the pool anyway.
  // But the daemon gives no epoch to who does not say that it has mapped anything.
  const daxfs::UniqueFd fd = open_file(file, O_RDWR | O_DIRECT);
  daxfs::client::Attached held;
  REQUIRE(daxfs::client::attach_and_map(fd.get(), &held));
  const auto ask = [&](std::uint64_t pin) {
    const auto args = std::make_unique<daxfs_direct_args>();
    args->pin_id = pin;
    args->length = kBlock;
    return error_of(ioctl(fd.get(), DAXFS_IOC_DIRECT, args.get()));
  };
  CHECK(ask(held.terms.pin_id) == 0);
  CHECK(ask(held.terms.pin_id + 1) == ENOENT);
  CHECK(ask(UINT64_MAX) == ENOENT);
  // Of another open file, too.
  const daxfs::UniqueFd other = open_file(file, O_RDWR | O_DIRECT);
  const daxfs_unpin_args back = {held.terms.pin_id};
  CHECK(error_of(ioctl(other.get(), DAXFS_IOC_DETACH, &back)) == ENOENT);
  CHECK(error_of(ioctl(fd.get(), DAXFS_IOC_DETACH, &back)) == EBUSY);
  munmap(held.around.start, held.around.length);
  held.around = {};
  CHECK(eventually([&] { return ask(held.terms.pin_id) == EACCES; }));
  daxfs::client::unmap_and_detach(fd.get(), &held);
  CHECK(attached(0));
}

TEST_CASE("direct: many attached descriptors, and their end") {
  // 10,000 on a quiet machine.
  const char* const wanted = std::getenv("DAXFS_DIRECT_DESCRIPTORS");
  const auto count = wanted != nullptr ? std::strtoul(wanted, nullptr, 10) : 500ul;
  DirectMount mount("short_timeout=60s");
  const std::uint64_t before = mount.free();
  const rlimit enough = {count + 100, count + 100};
  Holder crowd([&] {
    if (setrlimit(RLIMIT_NOFILE, &enough) != 0) return errno;
    for (std::size_t i = 0; i < count; ++i) {
      const int fd = open(mount.file.c_str(), O_RDWR);
      daxfs_direct* const direct = daxfs_attach(fd);
      if (direct == nullptr) return errno;
      close(fd);
      char byte = 0;
      if (daxfs_pread(direct, &byte, 1, 0) != 1) return errno;
    }
    return 0;
  });
  CHECK(crowd.result() == 0);
  CHECK(mount.attached(count));
  CHECK(mount.limbo() == count * kBlock);
  CHECK(punch(mount.file, 0, kBlock) == 0);
  SECTION("they die") { crowd.end(); }
  SECTION("the daemon dies first") {
    mount.kill_daemon();
    mount.mount("direct");
    CHECK(shrink(mount.file, kBlock) == 0);
    crowd.end();
  }
  CHECK(mount.attached(0));
  CHECK(shrink(mount.file, 0) == 0);
  CHECK(mount.space_becomes(before + kBlocks * kBlock, 0));
}

TEST_CASE("direct: no such thing on other filesystems, as with a daemon that is older") {
  TempDir elsewhere;
  const std::string path = elsewhere.path("f");
  write_file(path, "x");
  const daxfs::UniqueFd fd = open_file(path, O_RDWR);
  CHECK(daxfs_attach(fd.get()) == nullptr);
  CHECK(errno == ENOTTY);
  CHECK(daxfs_attach(-1) == nullptr);
  CHECK(errno == EBADF);
}

TEST_CASE_METHOD(DirectMount, "direct: a time that is set stays, whatever was written before") {
  Direct direct(file);
  REQUIRE(copies_again(direct));
  direct.write(0, "new");
  const timespec times[2] = {{.tv_sec = 1'000'000, .tv_nsec = 0},
                             {.tv_sec = 1'000'000, .tv_nsec = 0}};
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
  CHECK(status_of(file).st_mtim.tv_sec == 1'000'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the client's clock is a coarse one
  CHECK(status_of(file).st_mtim.tv_sec == 1'000'000);
  direct.write(0, "newer");
  CHECK(status_of(file).st_mtim.tv_sec > 1'000'000);
}

TEST_CASE_METHOD(DirectMount,
                 "direct: fsck repairs nothing beside a client that is stopped in a copy") {
  HalfCopy copy(file);
  kill_daemon();
  const auto fsck = [&](const char* how) { return run({tool("fsck.daxfs"), how, pool()}); };
  const char* const said = "is in the middle of a copy";
  CHECK_FALSE(contains(fsck("-n").out, said));
  const Finished refused = fsck("-y");
  CHECK(contains(refused.out, said));
  CHECK(refused.code == 4);
  copy.finish();
  const Finished done = fsck("-y");
  INFO(done.out << done.err);
  CHECK(done.code <= 1);
  mount();
  CHECK(read_file(file).substr(0, kBlock) == std::string(kBlock, '#'));
  CHECK(free() > 0);
}
