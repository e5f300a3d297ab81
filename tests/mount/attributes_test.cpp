// Modes, owners and times, and the privileges that must not survive.
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr uid_t kUser = 4242;

mode_t mode_of(const std::string& path) { return status_of(path).st_mode & 07777; }

bool equal(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

TEST_CASE("modes and owners are kept, and only their owner changes them") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "x");
  REQUIRE(chmod(file.c_str(), 07754) == 0);
  CHECK(mode_of(file) == 07754);
  REQUIRE(chown(file.c_str(), 1'000'000, 2'000'000'000) == 0);
  CHECK(status_of(file).st_uid == 1'000'000);
  CHECK(status_of(file).st_gid == 2'000'000'000);
  CHECK(in_child([&] { return error_of(chmod(file.c_str(), 0777)); }, kUser) == EPERM);
  CHECK(in_child([&] { return error_of(chown(file.c_str(), kUser, kUser)); }, kUser) == EPERM);
  REQUIRE(chown(file.c_str(), kUser, kUser) == 0);
  CHECK(in_child([&] { return error_of(chmod(file.c_str(), 0600)); }, kUser) == 0);
  CHECK(in_child([&] { return error_of(chown(file.c_str(), 0, 0)); }, kUser) == EPERM);
  CHECK(in_child([&] { return error_of(open(file.c_str(), O_RDWR)); }, kUser + 1) == EACCES);
  CHECK(in_child([&] { return error_of(open(file.c_str(), O_RDWR)); }, kUser) == 0);
  REQUIRE(symlink("f", mount.path("s").c_str()) == 0);
  REQUIRE(lchown(mount.path("s").c_str(), 7, 8) == 0);
  mount.remount();
  CHECK(mode_of(file) == 0600);
  CHECK(status_of(file).st_uid == kUser);
  CHECK(status_of(mount.path("s")).st_uid == 7);
}

TEST_CASE("new files belong to who makes them, less the umask") {
  Mount mount;
  const int made = in_child(
      [&] {
        umask(027);
        if (open(mount.path("f").c_str(), O_CREAT | O_WRONLY, 0666) < 0) return errno;
        if (mkdir(mount.path("d").c_str(), 0777) != 0) return errno;
        if (mkfifo(mount.path("p").c_str(), 0666) != 0) return errno;
        return error_of(symlink("f", mount.path("s").c_str()));
      },
      kUser);
  REQUIRE(made == 0);
  CHECK(mode_of(mount.path("f")) == 0640);
  CHECK(mode_of(mount.path("d")) == 0750);
  CHECK(mode_of(mount.path("p")) == 0640);
  for (const char* name : {"f", "d", "p", "s"}) {
    CHECK(status_of(mount.path(name)).st_uid == kUser);
    CHECK(status_of(mount.path(name)).st_gid == kUser);
  }
}

TEST_CASE("a setgid directory hands down its group, and directories the bit") {
  Mount mount;
  const std::string dir = mount.path("g");
  REQUIRE(mkdir(dir.c_str(), 0777) == 0);
  REQUIRE(chown(dir.c_str(), 0, 777) == 0);
  REQUIRE(chmod(dir.c_str(), 02777) == 0);
  const int made = in_child(
      [&] {
        umask(0);
        if (open((dir + "/f").c_str(), O_CREAT | O_WRONLY, 02775) < 0) return errno;
        return error_of(mkdir((dir + "/d").c_str(), 0755));
      },
      kUser);
  REQUIRE(made == 0);
  CHECK(status_of(dir + "/f").st_gid == 777);
  CHECK(status_of(dir + "/d").st_gid == 777);
  CHECK(mode_of(dir + "/d") == 02755);
  // Who is not of the group cannot make a program that runs as it.
  CHECK(mode_of(dir + "/f") == 0775);
}

TEST_CASE("times are kept to the nanosecond, before and long after 1970") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "x");
  const timespec set[2] = {{-86400 * 365, 123'456'789}, {4'000'000'000, 999'999'999}};
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), set, 0) == 0);
  CHECK(equal(status_of(file).st_atim, set[0]));
  CHECK(equal(status_of(file).st_mtim, set[1]));

  const timespec omit[2] = {{0, UTIME_OMIT}, {5, 6}};
  const timespec ctime_before = status_of(file).st_ctim;
  next_tick();
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), omit, 0) == 0);
  CHECK(equal(status_of(file).st_atim, set[0]));
  CHECK(equal(status_of(file).st_mtim, omit[1]));
  CHECK_FALSE(equal(status_of(file).st_ctim, ctime_before));

  const timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  const time_t before = time(nullptr) - 1;
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), now, 0) == 0);
  CHECK(status_of(file).st_atim.tv_sec >= before);

  REQUIRE(chmod(file.c_str(), 0666) == 0);
  CHECK(in_child([&] { return error_of(utimensat(AT_FDCWD, file.c_str(), set, 0)); }, kUser) ==
        EPERM);
  CHECK(in_child([&] { return error_of(utimensat(AT_FDCWD, file.c_str(), nullptr, 0)); }, kUser) ==
        0);
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), set, 0) == 0);
  mount.remount();
  CHECK(equal(status_of(file).st_atim, set[0]));
  CHECK(equal(status_of(file).st_mtim, set[1]));
}

TEST_CASE("what changes a file moves its times, what reads it does not") {
  Mount mount({.options = "strictatime"});
  const std::string file = mount.path("f");
  write_file(file, "0123456789");
  const timespec old[2] = {{1000, 1}, {1000, 2}};
  const auto moved = [&](const std::function<void()>& act) {
    REQUIRE(utimensat(AT_FDCWD, file.c_str(), old, 0) == 0);
    const struct stat before = status_of(file);
    next_tick();
    act();
    const struct stat after = status_of(file);
    std::string text;
    if (!equal(before.st_atim, after.st_atim)) text += 'a';
    if (!equal(before.st_mtim, after.st_mtim)) text += 'm';
    if (!equal(before.st_ctim, after.st_ctim)) text += 'c';
    return text;
  };
  const daxfs::UniqueFd fd = open_file(file, O_RDWR | O_DIRECT);
  CHECK(moved([&] { (void)read_at(fd.get(), 0, 10); }) == "a");
  CHECK(moved([&] { write_at(fd.get(), 0, "x"); }) == "mc");
  CHECK(moved([&] { REQUIRE(ftruncate(fd.get(), 5) == 0); }) == "mc");
  CHECK(moved([&] { REQUIRE(chmod(file.c_str(), 0600) == 0); }) == "c");
  CHECK(moved([&] { REQUIRE(link(file.c_str(), mount.path("l").c_str()) == 0); }) == "c");
  CHECK(moved([&] {
          REQUIRE(rename(file.c_str(), mount.path("t").c_str()) == 0);
          REQUIRE(rename(mount.path("t").c_str(), file.c_str()) == 0);
        }) == "c");
  CHECK(moved([&] {
          REQUIRE(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
        }) == "mc");

  const timespec directory_before = status_of(mount.path()).st_mtim;
  next_tick();
  REQUIRE(unlink(mount.path("l").c_str()) == 0);
  CHECK_FALSE(equal(status_of(mount.path()).st_mtim, directory_before));
}

TEST_CASE("set-user-id goes when somebody without privilege writes, truncates or takes over") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, std::string(100, 'x'));
  const auto after = [&](mode_t mode, const std::function<int()>& act) {
    REQUIRE(chmod(file.c_str(), mode) == 0);
    REQUIRE(in_child(act, kUser) == 0);
    return mode_of(file);
  };
  const auto write_buffered = [&] {
    const int fd = open(file.c_str(), O_WRONLY);
    return pwrite(fd, "y", 1, 0) == 1 ? 0 : errno;
  };
  const auto append_direct = [&] {
    const int fd = open(file.c_str(), O_WRONLY | O_DIRECT | O_APPEND);
    return write(fd, "y", 1) == 1 ? 0 : errno;
  };
  CHECK(after(06777, write_buffered) == 0777);
  CHECK(after(06777, append_direct) == 0777);
  CHECK(after(06767, write_buffered) == 0767);  // nor is the writer in the file's group
  CHECK(after(06777, [&] { return error_of(truncate(file.c_str(), 10)); }) == 0777);
  CHECK(after(06777, [&] { return error_of(open(file.c_str(), O_WRONLY | O_TRUNC)); }) == 0777);
  REQUIRE(chmod(file.c_str(), 06777) == 0);
  REQUIRE(chown(file.c_str(), 1, 1) == 0);
  CHECK(mode_of(file) == 0777);

  REQUIRE(chmod(file.c_str(), 06777) == 0);
  write_at(open_file(file, O_WRONLY).get(), 0, "root");
  CHECK(mode_of(file) == 06777);
  mount.remount();
  CHECK(mode_of(file) == 06777);
}

TEST_CASE("relatime hears of a first read, also where the kernel has cached what was written") {
  Mount mount;
  const std::string file = mount.path("f");
  const auto atime = [&] { return status_of(file).st_atim; };
  write_file(file, "x");
  for (int round = 0; round < 2; ++round) {
    next_tick();
    {
      const daxfs::UniqueFd fd = open_file(file, O_WRONLY | O_APPEND);
      REQUIRE(write(fd.get(), "more", 4) == 4);
    }
    const timespec before = atime();
    next_tick();
    CHECK(read_file(file).size() == 5u + 4u * static_cast<unsigned>(round));
    const timespec first = atime();
    CHECK_FALSE(equal(before, first));
    next_tick();
    (void)read_file(file);
    CHECK(equal(atime(), first));
  }
}

TEST_CASE("relatime moves the access time when it says something new") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "x");
  const timespec stale[2] = {{1000, 0}, {2000, 0}};
  REQUIRE(utimensat(AT_FDCWD, file.c_str(), stale, 0) == 0);
  mount.remount("noatime");
  CHECK(read_file(file) == "x");
  CHECK(status_of(file).st_atim.tv_sec == 1000);
  mount.remount();
  CHECK(read_file(file) == "x");
  const timespec first = status_of(file).st_atim;
  CHECK(first.tv_sec > 2000);
  mount.remount();
  CHECK(read_file(file) == "x");
  CHECK(equal(status_of(file).st_atim, first));
}
