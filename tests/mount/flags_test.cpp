// chattr(1): immutable, append-only and the other flags, as on ext4.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/mount/oracle.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr unsigned kOwnOfExt4 = FS_EXTENT_FL;

int set_flags(const std::string& path, unsigned flags) {
  const daxfs::UniqueFd fd(open(path.c_str(), O_RDONLY));
  unsigned now = 0;
  if (ioctl(fd.get(), FS_IOC_GETFLAGS, &now) == 0) flags |= now & kOwnOfExt4;
  return error_of(ioctl(fd.get(), FS_IOC_SETFLAGS, &flags));
}

unsigned flags_of(const std::string& path) {
  const daxfs::UniqueFd fd(open(path.c_str(), O_RDONLY));
  unsigned flags = 0;
  REQUIRE(ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) == 0);
  return flags & ~kOwnOfExt4;
}

// Every kind of change, to a file and to what is in a directory.
constexpr const char* kChanges = R"sh(
  changes() {
    echo == $1
    try sh -c 'echo x >> f'; try sh -c 'echo x > f'; try sh -c 'echo x 1<>f'; cat f
    try truncate -s 3 f; try truncate -s 100 f; try fallocate -l 10000 f; try fallocate -n -l 20000 f
    try fallocate -p -l 4096 f; try fallocate -z -l 4096 f; try fallocate -n -z -l 4096 f
    try chmod 604 f; try chown 7 f; try touch f; try touch -d 2001-01-01 f; try touch -a f
    try setfattr -n user.x -v y f; try setfattr -x user.kept f; try setfacl -m u:7:r f
    try ln f d/link; try mv f g; try mv g f; try mv new f; try mv f new; try rm -f f
    try sh -c 'echo x > d/f'; try rm -f d/new; try touch d/new; try mkdir d/dir; try rmdir d/dir
    try ln -s x d/s; try mkfifo d/p; try mv d/old d/renamed; try mv d/old moved; try mv new d/new2
    try mv d e; try mv e d; try rmdir d/empty; try rm -f d/old; try chmod 700 d; try setfacl -d -m u:7:r d
    try setfattr -n user.x -v y d; try touch -d 2001-01-01 d; try touch d
    stat -c '%A %u %s %n' *; ls d; getfattr -m - f d
    rm -rf f g new moved e d/* 2>&1 | sort
  }
  prepare() {
    chattr -ia f d 2>&1; rm -rf f g new moved d e; mkdir d d/empty; echo text > f; echo new > new
    touch d/old d/f; setfattr -n user.kept -v x f
  }
)sh";

}  // namespace

TEST_CASE("flags: what immutable and append-only forbid is as on ext4") {
  for (const char* command : {"chattr", "setfattr", "setfacl"}) need_command(command);
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, std::string(kChanges) + R"sh(
    touch f; mkdir d
    for flags in i a ia; do
      prepare; try chattr +$flags f; changes "file $flags"
      prepare; try chattr +$flags d; changes "directory $flags"
      prepare; try chattr +$flags f d; changes "both $flags"
    done
    prepare; changes none; prepare; chattr +ai f d)sh",
                     std::string(kChanges) + "changes remounted; chattr -ai f d; changes none");
}

TEST_CASE("flags: who may change which is as on ext4") {
  need_command("chattr");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(
      mount, ext4, R"sh(
    touch f other; mkdir d other.d; chown 100:100 f d; ln -s f link; mkfifo p
    show() { lsattr -d "$@" 2>&1 | sed "s/^\([^ ]*\)e/\1-/"; }
    without() { setpriv --inh-caps=-linux_immutable --bounding-set=-linux_immutable -- "$@"; }
    for at in f d; do for flag in i a A d S D C; do
      try chattr +$flag $at; show $at; try chattr -$flag $at
    done; done
    try as 100 100 chattr +d f; try as 100 100 chattr +A f; show f; try as 100 100 chattr -A f
    try as 100 100 chattr +i f; try as 100 100 chattr +a f; try as 101 101 chattr +d f; show f
    try without chattr +i f; try without chattr +a f; try without chattr +d f; show f
    try chattr +i f; try chattr +A f; try chattr +a d; try chattr +A d; try without chattr -i f; try without chattr -a d; try without chattr -d f
    try as 100 100 chattr -i f; show f d; chattr -i f; chattr -a d; show f d
    try chattr +i p; try lsattr p; try chattr +i link; show f
    echo inheritance
    chattr +AdSD d; touch d/f; mkdir d/d; mkfifo d/p; ln -s f d/s; show d d/f d/d; chattr +ia d/d; touch d/d/f
    chattr -ia d/d; chattr +a d/d; touch d/d/f; show d/d/f; chattr -a d/d
    echo ctime; before=$(stat -c %z other.d); sleep 0.02; chattr +A other.d; [ "$before" != "$(stat -c %z other.d)" ]; echo $?
    chattr +iaAdS other; show other)sh",
      R"sh(lsattr -d f d other d/f d/d | sed "s/^\([^ ]*\)e/\1-/"; chattr -iaAdS other; rm other; ls)sh");
}

TEST_CASE("flags: the ioctls say and take what ext4 does") {
  Mount mount;
  const Ext4 ext4;
  for (const std::string& directory : {mount.path(), ext4.path()}) {
    write_file(directory + "/f", "x");
    REQUIRE(mkdir((directory + "/d").c_str(), 0755) == 0);
  }
  for (const char* name : {"/f", "/d"}) {
    const std::string here = mount.path() + name, there = ext4.path() + name;
    for (unsigned flag : {FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOATIME_FL, FS_NODUMP_FL, FS_SYNC_FL}) {
      INFO(name << " " << flag);
      for (const std::string& path : {here, there}) {
        REQUIRE(set_flags(path, flag) == 0);
        CHECK(flags_of(path) == flag);
        const daxfs::UniqueFd fd(open(path.c_str(), O_RDONLY));
        fsxattr attributes{};
        REQUIRE(ioctl(fd.get(), FS_IOC_FSGETXATTR, &attributes) == 0);
        const unsigned seen = attributes.fsx_xflags;
        CHECK(attributes.fsx_projid == 0);
        attributes.fsx_xflags = 0;
        REQUIRE(ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes) == 0);
        CHECK(flags_of(path) == 0);
        attributes.fsx_xflags = seen;
        REQUIRE(ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes) == 0);
        CHECK(flags_of(path) == flag);
        attributes.fsx_projid = 7;
        CHECK(error_of(ioctl(fd.get(), FS_IOC_FSSETXATTR, &attributes)) == EOPNOTSUPP);
        CHECK(flags_of(path) == flag);
      }
    }
    for (const unsigned bad : {0x400000u, 0x40000000u, 0x80000000u, ~0u}) {
      INFO(name << " " << bad);
      CHECK(set_flags(here, bad) == EOPNOTSUPP);
      REQUIRE(set_flags(there, 0) == 0);
    }
    CHECK(flags_of(here) == FS_SYNC_FL);
    REQUIRE(set_flags(here, 0) == 0);
  }
  REQUIRE(set_flags(mount.path("d"), FS_DIRSYNC_FL) == 0);
  CHECK(flags_of(mount.path("d")) == FS_DIRSYNC_FL);
}

TEST_CASE("flags: unnamed files, whiteouts and exchanges are refused as on ext4") {
  Mount mount;
  const Ext4 ext4;
  const auto answers_in = [](const std::string& directory) {
    const std::string d = directory + "/d", e = directory + "/e", f = d + "/f", g = e + "/g";
    const auto move = [](const std::string& from, const std::string& to, unsigned flags) {
      return [&from, to, flags] {
        return error_of(renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
      };
    };
    const auto name_unnamed = [&](unsigned flag) {
      const daxfs::UniqueFd fd(open(e.c_str(), O_TMPFILE | O_RDWR, 0600));
      unsigned flags = 0;
      if (ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) == 0) flags = flag | (flags & kOwnOfExt4);
      const int made = error_of(ioctl(fd.get(), FS_IOC_SETFLAGS, &flags));
      return made != 0
                 ? made
                 : error_of(linkat(fd.get(), "", AT_FDCWD, (d + "/n").c_str(), AT_EMPTY_PATH));
    };
    const std::vector<std::function<int()>> calls = {
        move(f, e + "/n", RENAME_WHITEOUT),
        move(f, g, RENAME_WHITEOUT),
        move(f, d + "/n", RENAME_WHITEOUT),
        move(f, g, RENAME_EXCHANGE),
        move(g, f, RENAME_EXCHANGE),
        move(f, g, 0),
        move(f, e + "/n", RENAME_NOREPLACE),
        move(d, e + "/n", RENAME_WHITEOUT),
        [&] {
          const daxfs::UniqueFd fd(open(d.c_str(), O_TMPFILE | O_RDWR, 0600));
          return error_of(fd.get());
        },
        [&] { return name_unnamed(0); },
        [&] { return name_unnamed(FS_APPEND_FL); },
        [&] { return name_unnamed(FS_IMMUTABLE_FL); }};
    std::vector<int> answers;
    for (const unsigned flag : {FS_IMMUTABLE_FL, FS_APPEND_FL}) {
      for (const std::string& of : {d, e, f, g}) {
        for (const auto& call : calls) {
          for (const std::string& made : {d, e}) REQUIRE(mkdir(made.c_str(), 0755) == 0);
          for (const std::string& made : {f, g}) write_file(made, "x");
          REQUIRE(set_flags(of, flag) == 0);
          answers.push_back(call());
          for (const auto& at : std::filesystem::recursive_directory_iterator(directory)) {
            if (at.is_directory() || at.is_regular_file()) (void)set_flags(at.path(), 0);
          }
          std::filesystem::remove_all(d);
          std::filesystem::remove_all(e);
        }
      }
    }
    return answers;
  };
  REQUIRE(mkdir(mount.path("here").c_str(), 0755) == 0);
  REQUIRE(mkdir((ext4.path() + "/here").c_str(), 0755) == 0);
  CHECK(answers_in(mount.path("here")) == answers_in(ext4.path() + "/here"));
}

TEST_CASE("flags: who had the file open before may write no more") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, pattern(2 * kBlock, 1));
  daxfs::UniqueFd fd = open_file(file, O_RDWR);
  daxfs::UniqueFd direct = open_file(file, O_RDWR | O_DIRECT);
  AlignedBuffer block(kBlock);
  auto* const mapped =
      static_cast<char*>(mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  REQUIRE(mapped != MAP_FAILED);
  mapped[0] = '!';  // is written: it was stored before
  REQUIRE(set_flags(file, FS_IMMUTABLE_FL) == 0);
  mapped[1] = '!';
  CHECK(error_of(msync(mapped, kBlock, MS_SYNC)) != 0);
  munmap(mapped, kBlock);
  // The kernel does not go on showing what was refused.
  CHECK(eventually([&] { return read_at(fd.get(), 0, 2) == "!" + pattern(2, 1).substr(1); }));
  CHECK(error_of(pwrite(fd.get(), "x", 1, 5)) == EPERM);
  CHECK(error_of(pwrite(direct.get(), block.data(), kBlock, 0)) == EPERM);
  CHECK(error_of(ftruncate(fd.get(), 10)) == EPERM);
  CHECK(error_of(fallocate(fd.get(), 0, 0, 100'000)) == EPERM);
  CHECK(error_of(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock)) ==
        EPERM);
  CHECK(error_of(fchmod(fd.get(), 0600)) == EPERM);
  CHECK(error_of(fsetxattr(fd.get(), "user.x", "y", 1, 0)) == EPERM);
  CHECK(error_of(futimens(fd.get(), nullptr)) == EPERM);
  fd = {};
  direct = {};
  mount.remount();
  std::string expected = pattern(2 * kBlock, 1);
  expected[0] = '!';
  CHECK(difference(read_file(file), expected) == "");
  CHECK(error_of(open(file.c_str(), O_RDWR)) == EPERM);
  REQUIRE(set_flags(file, 0) == 0);
  write_file(file, "again");
}

TEST_CASE("flags: an append-only file grows at its end, however it was opened") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "first");
  const daxfs::UniqueFd before = open_file(file, O_RDWR);
  REQUIRE(set_flags(file, FS_APPEND_FL) == 0);
  CHECK(error_of(pwrite(before.get(), "x", 1, 0)) == EPERM);
  CHECK(error_of(pwrite(before.get(), "x", 1, 5)) == EPERM);
  CHECK(error_of(open(file.c_str(), O_WRONLY)) == EPERM);
  CHECK(error_of(open(file.c_str(), O_WRONLY | O_APPEND | O_TRUNC)) == EPERM);
  const daxfs::UniqueFd fd = open_file(file, O_WRONLY | O_APPEND);
  const daxfs::UniqueFd other = open_file(file, O_WRONLY | O_APPEND);
  REQUIRE(write(fd.get(), " second", 7) == 7);
  REQUIRE(write(other.get(), " third", 6) == 6);
  REQUIRE(write(fd.get(), " fourth", 7) == 7);
  CHECK(read_file(file) == "first second third fourth");
  CHECK(error_of(ftruncate(fd.get(), 100)) == EPERM);
  REQUIRE(futimens(fd.get(), nullptr) == 0);
  REQUIRE(fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 100'000) == 0);
  REQUIRE(set_flags(file, 0) == 0);
}

TEST_CASE("flags: with cache=writeback what was written before stays, and no more comes") {
  Mount mount({.options = "cache=writeback"});
  const std::string file = mount.path("f");
  std::string expected = pattern(3 * kBlock, 1);
  write_file(file, expected);
  daxfs::UniqueFd fd = open_file(file, O_RDWR);
  next_tick();
  write_at(fd.get(), 10, "kept");
  expected.replace(10, 4, "kept");
  const struct stat written = status_of(file);
  next_tick();
  REQUIRE(set_flags(file, FS_IMMUTABLE_FL) == 0);
  for (int round = 0; round < 3; ++round) {
    CHECK(error_of(pwrite(fd.get(), "x", 1, 5)) == EPERM);
    (void)status_of(file);  // the kernel has learned its attributes
  }
  CHECK(error_of(fsync(fd.get())) == 0);
  CHECK(error_of(close(fd.release())) == 0);
  mount.remount("cache=writeback");
  CHECK(difference(read_file(file), expected) == "");
  CHECK(status_of(file).st_mtim.tv_nsec == written.st_mtim.tv_nsec);
  REQUIRE(set_flags(file, 0) == 0);
  write_file(file, "again");
}

TEST_CASE("flags: with cache=writeback an append-only log grows at its end, whoever writes it") {
  Mount mount({.options = "cache=writeback"});
  const std::string file = mount.path("log");
  write_file(file, "zero ");
  {
    const daxfs::UniqueFd before = open_file(file, O_WRONLY | O_APPEND);
    const daxfs::UniqueFd anywhere = open_file(file, O_WRONLY);
    REQUIRE(write(before.get(), "one ", 4) == 4);
    REQUIRE(set_flags(file, FS_APPEND_FL) == 0);
    REQUIRE(write(before.get(), "two ", 4) == 4);
    for (int round = 0; round < 3; ++round) {
      CHECK(error_of(pwrite(anywhere.get(), "x", 1, 0)) == EPERM);
      (void)status_of(file);
    }
    CHECK(error_of(open(file.c_str(), O_WRONLY)) == EPERM);
    const daxfs::UniqueFd after = open_file(file, O_WRONLY | O_APPEND);
    REQUIRE(write(after.get(), "three ", 6) == 6);
    REQUIRE(write(before.get(), "four ", 5) == 5);
    CHECK(error_of(futimens(after.get(), nullptr)) == 0);
    const timespec times[2] = {{7, 0}, {8, 0}};
    CHECK(error_of(futimens(after.get(), times)) == EPERM);
    CHECK(error_of(ftruncate(after.get(), 3)) == EPERM);
    CHECK(error_of(fsync(before.get())) == 0);
    // O_APPEND may go, with a kernel that does not know the flag; the file's protection does not.
    if (fcntl(after.get(), F_SETFL, 0) == 0) {
      CHECK(error_of(pwrite(after.get(), "x", 1, 0)) == EPERM);
    }
  }
  const daxfs::UniqueFd alone = open_file(file, O_WRONLY | O_APPEND);
  REQUIRE(write(alone.get(), "five", 4) == 4);
  mount.kill_daemon();
  mount.mount("cache=writeback");
  CHECK(read_file(file) == "zero one two three four five");
  REQUIRE(set_flags(file, 0) == 0);
}

TEST_CASE("flags: a file that is pinned for writing is not made immutable, nor pinned afterwards") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, pattern(4 * kBlock, 1));
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE, &pin) == 0);
  CHECK(set_flags(file, FS_IMMUTABLE_FL) == ETXTBSY);
  CHECK(set_flags(file, FS_APPEND_FL) == ETXTBSY);
  REQUIRE(set_flags(file, FS_NODUMP_FL) == 0);
  REQUIRE(daxfs_unpin(fd.get(), pin) == 0);
  REQUIRE(daxfs_pin(fd.get(), 0, kBlock, 0, &pin) == 0);
  for (const unsigned flag : {FS_IMMUTABLE_FL, FS_APPEND_FL}) {
    REQUIRE(set_flags(file, flag) == 0);
    std::uint64_t refused = 0;
    CHECK(error_of(daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE, &refused)) == EPERM);
    CHECK(error_of(daxfs_pin(fd.get(), 0, 9 * kBlock, DAXFS_PIN_ALLOCATE, &refused)) == EPERM);
    std::uint64_t read_only = 0;
    REQUIRE(daxfs_pin(fd.get(), 0, kBlock, 0, &read_only) == 0);
  }
  REQUIRE(set_flags(file, 0) == 0);
}

TEST_CASE("flags: noatime of a file or directory keeps its access time") {
  Mount mount({.options = "strictatime"});
  write_file(mount.path("f"), "x");
  write_file(mount.path("g"), "x");
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  REQUIRE(set_flags(mount.path("d"), FS_NOATIME_FL) == 0);
  write_file(mount.path("d/heir"), "x");
  REQUIRE(set_flags(mount.path("f"), FS_NOATIME_FL) == 0);
  const auto atime = [&](const char* name) {
    const struct stat st = status_of(mount.path(name));
    return st.st_atim.tv_sec * 1'000'000'000 + st.st_atim.tv_nsec;
  };
  const auto f = atime("f"), g = atime("g"), heir = atime("d/heir");
  usleep(20'000);  // the clock of files has gone on
  for (const char* name : {"f", "g", "d/heir"}) read_file(mount.path(name));
  CHECK(atime("f") == f);
  CHECK(atime("g") > g);
  CHECK(atime("d/heir") == heir);
}
