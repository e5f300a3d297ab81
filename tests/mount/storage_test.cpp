// The storage below the pool fails while it is mounted: what was acknowledged stays, nothing more
// is acknowledged, nothing hangs, and the log says what is wrong.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "tests/mount/direct_client.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kMegabyte = 1 << 20;

// A tmpfs that holds less than what is put on it believes.
class SmallTmpfs {
 public:
  explicit SmallTmpfs(const std::string& options) {
    need_mounts();
    REQUIRE(::mount("tmpfs", dir_.path("").c_str(), "tmpfs", 0, options.c_str()) == 0);
  }
  ~SmallTmpfs() { umount2(dir_.path("").c_str(), MNT_DETACH); }
  SmallTmpfs(const SmallTmpfs&) = delete;
  SmallTmpfs& operator=(const SmallTmpfs&) = delete;
  std::string path(const std::string& name) const { return dir_.path(name); }
  void grow(const std::string& options) const {
    REQUIRE(::mount("tmpfs", dir_.path("").c_str(), "tmpfs", MS_REMOUNT, options.c_str()) == 0);
  }

 private:
  TempDir dir_;
};

std::string control(const Mount& mount, const std::string& name) {
  return run({"/usr/bin/cat", mount.path(".daxfs/" + name)}).out;
}

// Nothing is changed any more, and everybody is told. `early` was opened before, for both.
void check_stopped(const Mount& mount, const daxfs::UniqueFd& early, const std::string& why) {
  INFO(mount.log());
  CHECK(error_of(open(mount.path("early").c_str(), O_RDWR)) == EIO);
  CHECK(error_of(open(mount.path("never").c_str(), O_WRONLY | O_CREAT, 0644)) == EIO);
  CHECK(error_of(mkdir(mount.path("never").c_str(), 0755)) == EIO);
  CHECK(error_of(unlink(mount.path("early").c_str())) == EIO);
  CHECK(error_of(rename(mount.path("early").c_str(), mount.path("never").c_str())) == EIO);
  CHECK(error_of(truncate(mount.path("early").c_str(), 0)) == EIO);
  CHECK(error_of(chmod(mount.path("early").c_str(), 0600)) == EIO);
  CHECK(error_of(fsync(early.get())) == EIO);
  CHECK(error_of(pwrite(early.get(), "x", 1, 0)) == EIO);
  CHECK(error_of(fallocate(early.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock)) ==
        EIO);
  std::uint64_t pin = 0;
  CHECK(error_of(daxfs_pin(early.get(), 0, kBlock, 0, &pin)) == EIO);
  CHECK(contains(mount.status()["stopped"].get<std::string>(), why));
  CHECK(mount.status()["degraded"][0]["what"] == "stopped");
  const std::string shown = run({tool("daxfsctl"), "status", mount.path()}).out;
  CHECK(contains(shown, "stopped"));
  CHECK(contains(shown, why));
  CHECK(contains(control(mount, "metrics"), "\ndaxfs_stopped 1\n"));
  CHECK(eventually([&] { return contains(mount.log(), why); }));
  CHECK(contains(mount.log(), mount.pool()));
}

std::uint64_t address_space(pid_t process) {
  std::uint64_t pages = 0;
  std::ifstream(fmt::format("/proc/{}/statm", process)) >> pages;
  return pages * kBlock;
}

struct Cut {
  std::uint64_t pool_size = 0;
  off_t there = 0;  // a block of the file that is still in the pool
  off_t gone = 0;   // and one that is not
};

// Cuts the pool in the middle of what of the file lies last in it.
Cut cut_through(const Mount& mount, const daxfs::UniqueFd& file) {
  const std::vector<daxfs_extent> extents = extents_of(file.get());
  const auto last =
      std::max_element(extents.begin(), extents.end(),
                       [](const auto& a, const auto& b) { return a.pool_offset < b.pool_offset; });
  REQUIRE(last != extents.end());
  REQUIRE(last->length >= 4 * kBlock);
  const std::uint64_t half = last->length / 2 / kBlock * kBlock;
  REQUIRE(truncate(mount.pool().c_str(), static_cast<off_t>(last->pool_offset + half)) == 0);
  return {last->pool_offset + half, static_cast<off_t>(last->file_offset),
          static_cast<off_t>(last->file_offset + last->length - kBlock)};
}

}  // namespace

TEST_CASE("a pool that is cut under its mount: reads of what is there go on, nothing else") {
  Mount mount({.size = "32M"});
  const std::string text = pattern(10 * kBlock, 1);
  write_file(mount.path("early"), text);
  const std::string big = pattern(20 * kMegabyte, 2);
  write_file(mount.path("big"), big);
  std::uint64_t kept = 0;
  Cut cut;
  {
    daxfs::UniqueFd early = open_file(mount.path("early"), O_RDWR);
    const daxfs::UniqueFd fd = open_file(mount.path("big"), O_RDWR | O_DIRECT);
    cut = cut_through(mount, fd);
    kept = cut.pool_size;

    AlignedBuffer block(kBlock);
    CHECK(pread(fd.get(), block.data(), kBlock, cut.there) == kBlock);
    CHECK(block.view() == big.substr(static_cast<std::size_t>(cut.there), kBlock));
    CHECK(error_of(pread(fd.get(), block.data(), kBlock, cut.gone)) == EIO);
    const std::string told = "/big: bytes " + std::to_string(cut.gone) + " to " +
                             std::to_string(cut.gone + off_t(kBlock)) + " cannot be read";
    CHECK(eventually([&] { return contains(mount.log(), told); }));
    // So far nothing was lost that anybody changed.
    CHECK(mount.status()["stopped"].is_null());
    write_at(early.get(), 0, "EARLY");

    CHECK(error_of(pwrite(fd.get(), block.data(), kBlock, cut.gone)) == EIO);
    check_stopped(mount, early, "cut to " + std::to_string(kept) + " bytes");
    // The page that took the write in place of the storage is nobody's data.
    CHECK(error_of(pread(fd.get(), block.data(), kBlock, cut.gone)) == EIO);
    CHECK(pread(fd.get(), block.data(), kBlock, cut.there) == kBlock);
    CHECK(block.view() == big.substr(static_cast<std::size_t>(cut.there), kBlock));
  }
  mount.unmount();

  // Cut, it is no pool; with its old size, all that was kept is there.
  const Finished refused = run({tool("daxfs"), mount.pool(), mount.path(), "-f"});
  CHECK(refused.code == 1);
  INFO(refused.err);
  CHECK(contains(refused.err, mount.pool()));
  REQUIRE(truncate(mount.pool().c_str(), 32 * kMegabyte) == 0);
  mount.mount();
  CHECK(read_file(mount.path("early")) == "EARLY" + text.substr(5));
  const std::string after = read_file(mount.path("big"));
  CHECK(after.size() == big.size());
  CHECK(after.substr(static_cast<std::size_t>(cut.there), kBlock) ==
        big.substr(static_cast<std::size_t>(cut.there), kBlock));
}

TEST_CASE("a pool that is cut under a program that copies by itself: EIO, and it lives on") {
  Mount mount({.size = "32M", .options = "direct"});
  const std::string big = pattern(20 * kMegabyte, 2);
  // The doorbell lies before the file's blocks or behind them: then it is lost, too.
  const bool first = GENERATE(false, true);
  write_file(mount.path("big"), first ? "" : big);
  {
    Direct direct(mount.path("big"));
    if (first) direct.write(0, big);
    CHECK(direct.read(0, kBlock) == big.substr(0, kBlock));
    const auto before = direct.counts();
    CHECK(before.direct == 1);
    const daxfs::UniqueFd fd = open_file(mount.path("big"), O_RDWR | O_DIRECT);
    const std::uint64_t doorbell = live_list(mount, DAXFS_QUERY_LIMBO).at(0)["pool_offset"];
    const Cut cut = cut_through(mount, fd);
    CHECK(first == (doorbell < cut.pool_size));

    std::string block(kBlock, '?');
    const auto at = static_cast<std::uint64_t>(cut.gone);
    CHECK(error_of(daxfs_pread(direct.direct, block.data(), kBlock, at)) == EIO);
    CHECK(error_of(daxfs_pread(direct.direct, block.data(), kBlock, at)) == EIO);
    CHECK(error_of(daxfs_pwrite(direct.direct, block.data(), kBlock, at)) == EIO);
    // From now on everything is a system call.
    CHECK(direct.read(static_cast<std::uint64_t>(cut.there), kBlock) ==
          big.substr(static_cast<std::size_t>(cut.there), kBlock));
    CHECK(direct.counts().direct == 1);
  }
  mount.unmount();
  REQUIRE(truncate(mount.pool().c_str(), 32 * kMegabyte) == 0);
  mount.mount("direct");
}

TEST_CASE("the filesystem below a sparse pool is full: what was acknowledged is there later") {
  const SmallTmpfs below("size=16M");
  Mount mount({.size = "64M", .pool = below.path("pool")});
  write_file(mount.path("early"), pattern(3 * kBlock, 1));
  daxfs::UniqueFd early = open_file(mount.path("early"), O_RDWR);

  std::vector<std::string> acknowledged;
  int code = 0;
  for (int i = 0; i < 64 && code == 0; ++i) {
    const std::string name = "file" + std::to_string(i);
    const daxfs::UniqueFd fd(open(mount.path(name).c_str(), O_WRONLY | O_CREAT, 0644));
    if (!fd) {
      code = errno;
      break;
    }
    const std::string data = pattern(kMegabyte, static_cast<unsigned>(i));
    if (pwrite(fd.get(), data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()) &&
        fsync(fd.get()) == 0) {
      acknowledged.push_back(name);
    } else {
      code = errno;
    }
  }
  CHECK(code == EIO);
  CHECK(acknowledged.size() > 4);
  check_stopped(mount, early, "is full");
  early = {};
  for (std::size_t i = 0; i < acknowledged.size(); ++i) {
    CHECK(difference(read_file(mount.path(acknowledged[i])),
                     pattern(kMegabyte, static_cast<unsigned>(i))) == "");
  }
  mount.unmount();

  below.grow("size=128M");
  mount.mount();
  for (std::size_t i = 0; i < acknowledged.size(); ++i) {
    CHECK(difference(read_file(mount.path(acknowledged[i])),
                     pattern(kMegabyte, static_cast<unsigned>(i))) == "");
  }
  CHECK(read_file(mount.path("early")) == pattern(3 * kBlock, 1));
  write_file(mount.path("goes on"), pattern(10 * kMegabyte, 3));
  mount.unmount();
  mount.check_pool();
  mount.mount();
}

TEST_CASE("fsck.daxfs checks a sparse pool on a full filesystem without asking it for room") {
  SmallTmpfs below("size=20M");
  Mount mount({.size = "64M", .pool = below.path("pool")});
  const daxfs::UniqueFd file = open_file(mount.path("file"), O_WRONLY | O_CREAT);
  const std::string piece(64 << 10, 'x');
  while (write(file.get(), piece.data(), piece.size()) > 0) {
  }
  mount.kill_daemon();
  const std::string& pool = mount.pool();
  const std::string space = run({"/usr/bin/stat", "-c", "%b", pool}).out;
  const Finished looked = run({tool("fsck.daxfs"), "-n", pool});
  INFO(looked.out << looked.err);
  CHECK(looked.code == 0);
  CHECK(run({"/usr/bin/stat", "-c", "%b", pool}).out == space);

  // Without what was there it tells why, and changes nothing.
  REQUIRE(truncate(pool.c_str(), 1 << 20) == 0);
  REQUIRE(truncate(pool.c_str(), 64 << 20) == 0);
  const std::string full = below.path("full");
  const daxfs::UniqueFd other = open_file(full, O_WRONLY | O_CREAT);
  while (write(other.get(), piece.data(), piece.size()) > 0) {
  }
  for (const std::string how : {"-n", "-p", "-y"}) {
    const Finished checked = run({tool("fsck.daxfs"), how, pool});
    INFO(how << ": " << checked.out << checked.err);
    CHECK(checked.code >= 4);
    CHECK(checked.code <= 8);
  }
  REQUIRE(unlink(pool.c_str()) == 0);
}

TEST_CASE("names that were acknowledged survive a full filesystem below the pool") {
  const SmallTmpfs below("size=16M");
  Mount mount({.size = "256M", .pool = below.path("pool")});
  write_file(mount.path("early"), "early");
  daxfs::UniqueFd early = open_file(mount.path("early"), O_RDWR);
  // Somebody else takes what was left.
  const daxfs::UniqueFd other = open_file(below.path("other"), O_WRONLY | O_CREAT);
  const std::string piece(64 << 10, 'x');
  while (write(other.get(), piece.data(), piece.size()) > 0) {
  }

  int made = 0;
  while (made < 100'000 && mkdir(mount.path("d" + std::to_string(made)).c_str(), 0755) == 0) ++made;
  CHECK(errno == EIO);
  check_stopped(mount, early, "is full");
  early = {};
  mount.unmount();

  below.grow("size=512M");
  mount.mount();
  for (int i = 0; i < made; ++i)
    REQUIRE(access(mount.path("d" + std::to_string(i)).c_str(), F_OK) == 0);
  // The one that failed may be there or not, but not in part: the check at the end says so.
  CHECK(access(mount.path("d" + std::to_string(made + 1)).c_str(), F_OK) != 0);
}

TEST_CASE("who waits at the gate when the storage fails is answered") {
  Mount mount({.size = "32M", .options = "pin_policy=wait"});
  write_file(mount.path("early"), pattern(kBlock, 1));
  write_file(mount.path("held"), pattern(4 * kBlock, 1));
  write_file(mount.path("big"), pattern(20 * kMegabyte, 2));
  daxfs::UniqueFd holder = open_file(mount.path("held"), O_RDWR);
  ReadyChild pins([&] {
    const int fd = open(mount.path("held").c_str(), O_RDWR);
    std::uint64_t pin = 0;
    return fd < 0 ? 1 : daxfs_pin(fd, 0, 4 * kBlock, 0, &pin);
  });
  auto waiter = std::async(std::launch::async, [&] {
    return error_of(fallocate(holder.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock));
  });
  REQUIRE(eventually([&] { return mount.status()["waiting"] == 1; }));

  daxfs::UniqueFd big = open_file(mount.path("big"), O_RDWR | O_DIRECT);
  const Cut cut = cut_through(mount, big);
  AlignedBuffer block(kBlock);
  CHECK(error_of(pwrite(big.get(), block.data(), kBlock, cut.gone)) == EIO);
  pins.kill();
  REQUIRE(waiter.wait_for(kPatience) == std::future_status::ready);
  CHECK(waiter.get() == EIO);
  CHECK(eventually([&] { return mount.status()["pins"]["long"] == 0; }));
  holder = {};
  big = {};
  mount.unmount();
  REQUIRE(truncate(mount.pool().c_str(), 32 * kMegabyte) == 0);
}

TEST_CASE("a pool that is deleted under its mount works until it is unmounted") {
  Mount mount({.size = "64M"});
  write_file(mount.path("before"), pattern(kBlock, 1));
  const std::string kept = mount.pool() + ".kept";
  REQUIRE(link(mount.pool().c_str(), kept.c_str()) == 0);
  REQUIRE(unlink(mount.pool().c_str()) == 0);
  write_file(mount.path("after"), pattern(kMegabyte, 2));
  CHECK(mount.status()["stopped"].is_null());
  daxfs::UniqueFd fd = open_file(mount.path("after"), O_RDWR);
  std::uint64_t pin = 0;
  CHECK(daxfs_pin(fd.get(), 0, kBlock, 0, &pin) == 0);
  CHECK(daxfs_unpin(fd.get(), pin) == 0);
  fd = {};
  mount.unmount();
  REQUIRE(rename(kept.c_str(), mount.pool().c_str()) == 0);
  mount.mount();
  CHECK(read_file(mount.path("before")) == pattern(kBlock, 1));
  CHECK(difference(read_file(mount.path("after")), pattern(kMegabyte, 2)) == "");
}

TEST_CASE("a daemon without a descriptor to spare goes on") {
#ifdef __SANITIZE_ADDRESS__
  skip_here("UBSan looks at memory through a pipe; without a descriptor, it calls all invalid");
#endif
  Mount mount({.options = "pin_policy=wait"});
  const rlimit none{3, 3};
  REQUIRE(prlimit(mount.daemon(), RLIMIT_NOFILE, &none, nullptr) == 0);
  write_file(mount.path("file"), pattern(8 * kBlock, 1));
  const daxfs::UniqueFd fd = open_file(mount.path("file"), O_RDWR);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, 4 * kBlock, DAXFS_PIN_WRITE, &pin) == 0);
  // Whose pin it is cannot be looked up in /proc now; a wrong guess would let it wait for itself.
  const int own =
      error_of(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock));
  CHECK(own == EDEADLK);
  CHECK(mount.ctl("pins").size() == 1);
  CHECK(contains(control(mount, "status"), "\"waiting\""));
  REQUIRE(daxfs_unpin(fd.get(), pin) == 0);
  CHECK(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock) == 0);
  CHECK(read_file(mount.path("file")).substr(kBlock) == pattern(8 * kBlock, 1).substr(kBlock));
}

TEST_CASE("a daemon that runs out of memory stops changing, and keeps what it acknowledged") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  skip_here("a sanitizer's own memory does not fit below such a limit");
#endif
  Mount mount({.size = "256M"});
  write_file(mount.path("early"), pattern(kMegabyte, 1));
  daxfs::UniqueFd early = open_file(mount.path("early"), O_RDWR);
  // The daemon's reserve is 32 MiB, so most of the rest is the way to it.
  const rlimit little{address_space(mount.daemon()) + 4 * kMegabyte, RLIM_INFINITY};
  REQUIRE(prlimit(mount.daemon(), RLIMIT_AS, &little, nullptr) == 0);
  std::vector<std::string> made;
  int error = 0;
  for (int i = 0; error == 0; ++i) {
    REQUIRE(i < 1'000'000);
    const std::string name =
        mount.path("a name that takes some memory, number " + std::to_string(i));
    const daxfs::UniqueFd fd(open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644));
    error = fd.get() < 0 ? errno : 0;
    if (error == 0) made.push_back(name);
  }
  CHECK(error == EIO);
  CHECK(error_of(unlink(made.front().c_str())) == EIO);
  CHECK(error_of(truncate(mount.path("early").c_str(), 0)) == EIO);
  CHECK(error_of(fsync(early.get())) == 0);
  CHECK(difference(read_file(mount.path("early")), pattern(kMegabyte, 1)) == "");
  CHECK(contains(mount.status()["stopped"].get<std::string>(), "memory"));
  CHECK(eventually([&] { return contains(mount.log(), "memory"); }));
  early = {};
  mount.unmount();
  mount.mount();
  CHECK(mount.status()["stopped"].is_null());
  for (const std::string& name : made) {
    if (access(name.c_str(), F_OK) != 0) FAIL("lost: " << name);
  }
}

TEST_CASE("a log that cannot be written holds nothing up") {
  Mount mount;
  mount.unmount();
  // Under this policy it warns at its start.
  Process daemon({"/bin/sh", "-c",
                  fmt::format("exec {} {} {} -f -o pin_policy=ignore,unsafe_demo 2>/dev/full",
                              tool("daxfs"), mount.pool(), mount.path())});
  REQUIRE(daemon.says(" on " + mount.path() + ":"));
  write_file(mount.path("file"), pattern(kMegabyte, 1));
  CHECK(difference(read_file(mount.path("file")), pattern(kMegabyte, 1)) == "");
  REQUIRE(eventually([&] { return umount2(mount.path().c_str(), 0) == 0; }));
  CHECK(daemon.finish().code == 0);
  mount.mount();
}
