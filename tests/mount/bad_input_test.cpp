// Bad input to the commands: a non-zero exit, one line that names the object, and nothing changed.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string_view>

#include "base/crc32c.h"
#include "blockmap/format.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;
namespace pmem = daxfs::pmem;

namespace {

constexpr std::uint64_t kPoolSize = 8 << 20;

std::size_t hash_of(const std::string& path) { return std::hash<std::string>{}(read_file(path)); }

// Exit code, one line on standard error that says `about`, nothing on standard output.
void check_refused(const std::vector<std::string>& command, int code, const std::string& about) {
  std::string line;
  for (const std::string& word : command) line += word + " ";
  INFO(line);
  const Finished refused = run(command);
  INFO(refused.err);
  CHECK(refused.code == code);
  CHECK(refused.out.empty());
  CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
  CHECK(refused.err.ends_with('\n'));
  CHECK(refused.err.find(about) != std::string::npos);
}

// A pool that is not mounted, and an empty directory.
struct Bench {
  Bench() {
    make_pool(pool, std::to_string(kPoolSize));
    REQUIRE(mkdir(mnt.c_str(), 0755) == 0);
    before = hash_of(pool);
  }
  ~Bench() {
    CHECK(hash_of(pool) == before);
    CHECK(rmdir(mnt.c_str()) == 0);  // empty, and not mounted on
  }
  void check_mount_refused(const std::string& options, const std::string& about) {
    check_refused({tool("daxfs"), pool, mnt, "-o", options}, 2, about);
  }
  // Changes a copy of the pool; its path.
  std::string damaged(const std::function<void(int fd)>& damage) {
    const std::string copy = dir.path("damaged");
    write_file(copy, read_file(pool));
    damage(open_file(copy, O_RDWR).get());
    return copy;
  }
  TempDir dir;
  const std::string pool = dir.path("pool");
  const std::string mnt = dir.path("mnt");
  std::size_t before = 0;
};

// Changes both copies of the superblock.
void change_superblocks(int fd, const std::function<void(pmem::Superblock&)>& change) {
  for (const std::uint64_t at : {std::uint64_t{0}, kPoolSize - kBlock}) {
    pmem::Superblock block;
    REQUIRE(pread(fd, &block, sizeof block, static_cast<off_t>(at)) == sizeof block);
    REQUIRE(block.magic == pmem::kMagic);
    change(block);
    REQUIRE(pwrite(fd, &block, sizeof block, static_cast<off_t>(at)) == sizeof block);
  }
}

}  // namespace

TEST_CASE_METHOD(Bench, "daxfs refuses mount options that make no sense") {
  for (const char* option : {"nonsense",
                             "pin_policy=nonsense",
                             "pin_policy=",
                             "pin_policy",
                             "pin_policy=Refuse",
                             "longterm=nonsense",
                             "limbo_limit=0",
                             "limbo_limit=1X",
                             "limbo_limit=-5",
                             "limbo_limit=",
                             "limbo_limit=101%",
                             "limbo_limit=-1%",
                             "limbo_limit=%",
                             "limbo_limit=99999999999999999999",
                             "short_timeout=",
                             "short_timeout=-5",
                             "short_timeout=1X",
                             "short_timeout=999999999h",
                             "ro=1",
                             "unsafe_demo=1"}) {
    check_mount_refused(option, option);
  }
  check_mount_refused("pin_policy=ignore", "unsafe_demo");
  check_mount_refused("relatime,nonsense,ro", "'nonsense'");
}

TEST_CASE_METHOD(Bench, "a mistyped word is answered with the nearest one") {
  check_mount_refused("pin_polcy=defer", "did you mean 'pin_policy'?");
  check_mount_refused("pin_policy=defre", "did you mean 'defer'?");
  check_mount_refused("unsafe-demo", "did you mean 'unsafe_demo'?");
  check_refused({tool("daxfs"), pool, mnt, "--versoin"}, 2, "did you mean '--version'?");
  check_refused({tool("daxfsctl"), "statsu", mnt}, 2, "did you mean 'status'?");
  check_refused({tool("daxfsctl"), "pins", "--jsno", mnt}, 2, "did you mean '--json'?");
  check_refused({tool("mkfs.daxfs"), "--sise", "8M", pool}, 2, "did you mean '--size'?");
  check_refused({tool("fsck.daxfs"), "--jsn", pool}, 16, "did you mean '--json'?");
  check_refused({tool("daxfs-hold"), "--ofset", "0", pool}, 2, "did you mean '--offset'?");
}

TEST_CASE_METHOD(Bench, "wrong usage is told in one line") {
  check_refused({tool("daxfs")}, 2, "daxfs: ");
  check_refused({tool("daxfs"), pool}, 2, "MOUNTPOINT");
  check_refused({tool("daxfs"), pool, mnt, "--nonsense"}, 2, "--nonsense");
  check_refused({tool("daxfs"), pool, mnt, "third"}, 2, "third");
  check_refused({tool("mkfs.daxfs")}, 2, "POOL");
  check_refused({tool("mkfs.daxfs"), "--nonsense", pool}, 2, "--nonsense");
  check_refused({tool("fsck.daxfs")}, 16, "POOL");
  check_refused({tool("daxfsctl")}, 2, "daxfsctl: ");
  check_refused({tool("daxfsctl"), "nonsense", mnt}, 2, "nonsense");
  check_refused({tool("daxfsctl"), "status"}, 2, "PATH");
  check_refused({tool("daxfs-hold")}, 2, "FILE");
  check_refused({tool("daxfs-hold"), "f", "--length", "0"}, 2, "--length");
  check_refused({tool("daxfs-hold"), "f", "--offset=-5"}, 2, "--offset");
  check_refused({tool("daxfs-hold"), "f", "--length", "9000P"}, 2, "2^63");
  check_refused({tool("daxfs-hold"), "f", "--seconds", "nan"}, 2, "'nan' is not between 0");
  check_refused({tool("daxfsctl"), "release", mnt, "--pin", "-1"}, 2, "'-1' is not a pin's number");
  check_refused({tool("daxfsctl"), "release", mnt, "--pin", "18446744073709551616"}, 2, "number");
}

TEST_CASE_METHOD(Bench, "daxfs refuses what is no mount point") {
  check_refused({tool("daxfs"), pool, dir.path("none")}, 1, dir.path("none"));
  check_refused({tool("daxfs"), pool, pool}, 1, "not a directory");
  check_refused({tool("daxfs"), pool, "/proc"}, 1, "/proc");
  REQUIRE(mkdir(dir.path("full").c_str(), 0755) == 0);
  write_file(dir.path("full/file"), "x");
  check_refused({tool("daxfs"), pool, dir.path("full")}, 1, "not empty");
  check_refused({tool("daxfs"), pool, dir.path("full/file/below")}, 1, "Not a directory");
}

TEST_CASE_METHOD(Bench, "daxfs refuses what is no pool") {
  const std::string odd = dir.path("odd");
  const auto refused = [&](const std::string& path, const std::string& about) {
    const std::size_t content = path == odd ? hash_of(path) : 0;
    check_refused({tool("daxfs"), path, mnt}, 1, about);
    check_refused({tool("daxfs"), path, mnt, "-f"}, 1, path);
    check_refused({tool("daxfs"), path, mnt, "-o", "ro"}, 1, path);
    if (path == odd) CHECK(hash_of(path) == content);
  };
  refused(dir.path("none"), "does not exist");
  refused(mnt, "directory");
  refused("/dev/null", "/dev/null");
  write_file(odd, "");
  refused(odd, "empty");
  write_file(odd, pattern(4096, 1));
  refused(odd, "too small");
  write_file(odd, pattern(kPoolSize, 1));
  refused(odd, "not a daxfs pool");
  write_file(odd, std::string(kPoolSize, '\0'));
  refused(odd, "not a daxfs pool");
}

TEST_CASE_METHOD(Bench, "daxfs refuses pools that are damaged or too new, and says which it is") {
  const auto refused = [&](const std::string& about, const std::function<void(int)>& damage) {
    const std::string copy = damaged(damage);
    const std::size_t content = hash_of(copy);
    check_refused({tool("daxfs"), copy, mnt}, 1, about);
    check_refused({tool("daxfs"), copy, mnt}, 1, copy);
    CHECK(hash_of(copy) == content);
  };
  refused("truncated", [](int fd) { REQUIRE(ftruncate(fd, kPoolSize - (1 << 20)) == 0); });
  refused("too small", [](int fd) { REQUIRE(ftruncate(fd, 1 << 20) == 0); });
  refused("newer", [](int fd) {
    change_superblocks(fd, [](pmem::Superblock& block) {
      block.version = pmem::kVersion + 1;
      daxfs::seal(block);
    });
  });
  refused("feature", [](int fd) {
    change_superblocks(fd, [](pmem::Superblock& block) {
      block.incompatible_features = 1ull << 40;
      daxfs::seal(block);
    });
  });
  refused("checksum", [](int fd) {
    change_superblocks(fd, [](pmem::Superblock& block) { block.total_blocks ^= 1; });
  });
  refused("superblock", [](int fd) {
    change_superblocks(fd, [](pmem::Superblock& block) {
      block.data_start = block.total_blocks + 5;
      daxfs::seal(block);
    });
  });
  refused("checksum", [](int fd) {  // the pool state
    const std::uint64_t garbage = 0x1234567812345678;
    REQUIRE(pwrite(fd, &garbage, sizeof garbage, kBlock + 8) == sizeof garbage);
  });
}

TEST_CASE_METHOD(Bench, "mkfs.daxfs refuses sizes that make no sense, and makes nothing") {
  const std::string fresh = dir.path("fresh");
  for (const char* size :
       {"0", "1X", "-5", "64MB", "4095K", "99999999999999999999", "2048P", "ten", "1.5G"}) {
    check_refused({tool("mkfs.daxfs"), std::string("--size=") + size, fresh}, 2, "--size");
    CHECK(access(fresh.c_str(), F_OK) != 0);
  }
  check_refused({tool("mkfs.daxfs"), fresh}, 2, fresh);
  check_refused({tool("mkfs.daxfs"), "--size", "8M", dir.path("none/pool")}, 1, dir.path("none"));
  check_refused({tool("mkfs.daxfs"), "--size", "8M", mnt}, 1, mnt);
  check_refused({tool("mkfs.daxfs"), "/dev/null"}, 1, "/dev/null");
  CHECK(access(fresh.c_str(), F_OK) != 0);
}

TEST_CASE_METHOD(Bench, "mkfs.daxfs leaves nothing on a full disk") {
  const std::string disk = dir.path("disk");
  REQUIRE(mkdir(disk.c_str(), 0755) == 0);
  REQUIRE(::mount("none", disk.c_str(), "tmpfs", 0, "size=1M") == 0);
  write_file(disk + "/fill", std::string(1 << 20, 'x'));
  const Finished refused = run({tool("mkfs.daxfs"), "--size", "64M", disk + "/pool"});
  CHECK(refused.code == 1);
  CHECK(refused.err.find("No space left on device") != std::string::npos);
  CHECK(access((disk + "/pool").c_str(), F_OK) != 0);
  CHECK(umount2(disk.c_str(), MNT_DETACH) == 0);
}

TEST_CASE_METHOD(Bench, "mkfs.daxfs overwrites nothing without --force") {
  check_refused({tool("mkfs.daxfs"), pool}, 1, "--force");
  check_refused({tool("mkfs.daxfs"), "--size", "16M", pool}, 1, "--force");
  const std::string other = dir.path("other");
  write_file(other, pattern(kPoolSize, 3));
  const std::size_t content = hash_of(other);
  check_refused({tool("mkfs.daxfs"), other}, 1, "--force");
  check_refused({tool("mkfs.daxfs"), "--size", "4M", other}, 1, other);
  CHECK(hash_of(other) == content);
  CHECK(run({tool("mkfs.daxfs"), "--force", other}).code == 0);
}

TEST_CASE_METHOD(Bench, "daxfsctl and daxfs-hold say where there is no daxfs") {
  for (const char* view : {"status", "pins", "limbo", "policy"}) {
    check_refused({tool("daxfsctl"), view, mnt}, 1, mnt);
    check_refused({tool("daxfsctl"), view, dir.path("none")}, 1, dir.path("none"));
    check_refused({tool("daxfsctl"), view, mnt, "--json"}, 1, "not on a daxfs mount");
  }
  check_refused({tool("daxfsctl"), "extents", pool}, 1, pool);
  check_refused({tool("daxfsctl"), "extents", mnt}, 1, mnt);
  check_refused({tool("daxfsctl"), "status", "/proc"}, 1, "/proc");
  check_refused({tool("daxfs-hold"), dir.path("none")}, 1, dir.path("none"));
  check_refused({tool("daxfs-hold"), mnt}, 1, mnt);
  write_file(dir.path("plain"), "x");
  check_refused({tool("daxfs-hold"), dir.path("plain")}, 1, dir.path("plain"));
  CHECK(read_file(dir.path("plain")) == "x");
}

TEST_CASE("a pool that is mounted is nobody else's") {
  Mount mount;
  write_file(mount.path("f"), "precious");
  const std::string second = mount.beside("second");
  REQUIRE(mkdir(second.c_str(), 0755) == 0);
  // At once: this pool is not just being let go.
  const auto begin = std::chrono::steady_clock::now();
  check_refused({tool("daxfs"), "-f", mount.pool(), second}, 1, mount.path());
  check_refused({tool("daxfs"), mount.pool(), second, "-o", "ro"}, 1, "already mounted");
  check_refused({tool("daxfs"), mount.pool(), mount.path()}, 1, mount.path());
  CHECK(std::chrono::steady_clock::now() - begin < Seconds(20));
  check_refused({tool("mkfs.daxfs"), mount.pool()}, 1, mount.pool());
  check_refused({tool("mkfs.daxfs"), "--force", mount.pool()}, 1, mount.pool());
  REQUIRE(symlink(mount.pool().c_str(), mount.beside("alias").c_str()) == 0);
  check_refused({tool("daxfs"), "-f", mount.beside("alias"), second}, 1, "already mounted");
  CHECK(read_file(mount.path("f")) == "precious");
  mount.remount();
  CHECK(read_file(mount.path("f")) == "precious");
}

TEST_CASE("a pool that is mounted in another mount namespace: who has it, and the way there") {
  const TempDir dir;
  const std::string pool = make_pool(dir.path("pool"));
  const std::string mnt = dir.path("mnt");
  REQUIRE(mkdir(mnt.c_str(), 0755) == 0);
  const std::vector<std::string> elsewhere{"/usr/bin/unshare", "--mount", "--propagation",
                                           "private"};
  std::vector<std::string> command = elsewhere;
  command.emplace_back("/bin/true");
  if (run(command).code != 0) skip_here("mount namespaces cannot be made here");
  command.back() = tool("daxfs");
  command.insert(command.end(), {pool, mnt, "-f"});
  Process daemon(command);
  REQUIRE(daemon.says(" on " + mnt + ":"));
  const std::string pid = std::to_string(daemon.pid());  // unshare has become it
  const auto begin = std::chrono::steady_clock::now();
  check_refused({tool("fsck.daxfs"), "-n", pool}, 8,
                "process " + pid + " (daxfs), mounted on " + mnt + " in another mount namespace");
  check_refused({tool("mkfs.daxfs"), "--force", pool}, 1,
                "nsenter --target " + pid + " --mount --root umount " + mnt);
  CHECK(std::chrono::steady_clock::now() - begin < Seconds(20));
  CHECK(run({"/usr/bin/nsenter", "--target", pid, "--mount", "--root", "umount", mnt}).code == 0);
  CHECK(daemon.finish(kPatience).code == 0);
  CHECK(run({tool("fsck.daxfs"), "-n", pool}).code == 0);
}

TEST_CASE("daxfs-hold says why it cannot hold") {
  Mount mount;
  write_file(mount.path("f"), "short");
  REQUIRE(truncate(mount.path("f").c_str(), 100 * 4096) == 0);
  check_refused({tool("daxfs-hold"), mount.path("f")}, 1, "--allocate");
  check_refused({tool("daxfs-hold"), mount.path("f"), "--offset", "1G"}, 1, mount.path("f"));
  check_refused({tool("daxfs-hold"), mount.path("none"), "--length", "4K"}, 1, mount.path("none"));
  check_refused({tool("daxfs-hold"), mount.path("none"), "--length", "1T", "--allocate"}, 1,
                "space");
  check_refused({tool("daxfs-hold"), mount.path("none/f"), "--length", "4K", "--allocate"}, 1,
                mount.path("none") + " does not exist");
  CHECK(access(mount.path("none").c_str(), F_OK) != 0);
  CHECK(status_of(mount.path("f")).st_blocks == 8);
}

TEST_CASE("one good copy of the superblock is enough") {
  Mount mount({.size = "8M"});
  write_file(mount.path("f"), "kept");
  mount.unmount();
  write_at(open_file(mount.pool(), O_WRONLY).get(), 0, std::string(kBlock, 'x'));
  mount.mount();
  CHECK(read_file(mount.path("f")) == "kept");
}
