// mount -o remount, and a pool that is mounted a second time: what changes, what is refused, and
// that what is refused has changed nothing.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

struct Changed : Mount {
  Changed() : Mount({.size = "16M+", .options = "strictatime"}) {
    if (geteuid() != 0) skip_here("only root may remount");
    write_file(path("f"), std::string(8192, 'f'));
  }
  Finished change(const std::string& options) const {
    return run({tool("daxfs"), pool(), path(), "-o", "remount," + options});
  }
  void must_change(const std::string& options) const {
    const Finished done = change(options);
    INFO(options << ": " << done.err);
    CHECK(done.code == 0);
    CHECK(done.err.empty());
  }
  // One line that says so; the mount is as it was.
  void check_refused(const std::string& options, int code, const std::string& about) const {
    const Json before = status();
    const unsigned long flags = flags_now();
    const Finished done = change(options);
    INFO(options << ": " << done.err);
    CHECK(done.code == code);
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
    CHECK(done.err.find(about) != std::string::npos);
    CHECK(status()["policy"] == before["policy"]);
    CHECK(status()["read_only"] == before["read_only"]);
    CHECK(flags_now() == flags);
  }
  unsigned long flags_now() const {
    struct statvfs now {};
    REQUIRE(statvfs(path().c_str(), &now) == 0);
    return now.f_flag;
  }
  int error_of_write() const {
    const int fd = open(path("new").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    close(fd);
    unlink(path("new").c_str());
    return 0;
  }
};

std::int64_t atime_of(const std::string& path) {
  const struct stat now = status_of(path);
  return now.st_atim.tv_sec * 1'000'000'000 + now.st_atim.tv_nsec;
}

}  // namespace

TEST_CASE_METHOD(Changed, "remount,ro: nothing changes any more, until remount,rw") {
  must_change("ro");
  CHECK(error_of_write() == EROFS);
  CHECK(status()["read_only"] == true);
  CHECK((flags_now() & ST_RDONLY) != 0);
  const std::int64_t atime = atime_of(path("f"));
  CHECK(read_file(path("f")).size() == 8192);
  CHECK(atime_of(path("f")) == atime);
  must_change("ro");
  must_change("rw");
  CHECK(status()["read_only"] == false);
  CHECK(error_of_write() == 0);
  CHECK(read_file(path("f")).size() == 8192);
  CHECK(atime_of(path("f")) > atime);
}

TEST_CASE_METHOD(Changed, "pins are taken and kept under remount,ro") {
  must_change("ro");
  const UniqueFd fd = open_file(path("f"), O_RDONLY);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, 8192, 0, &pin) == 0);
  must_change("rw");
  CHECK(truncate(path("f").c_str(), 0) == -1);
  CHECK(errno == ETXTBSY);
  CHECK(daxfs_unpin(fd.get(), pin) == 0);
}

TEST_CASE_METHOD(Changed, "remount,ro is refused while anybody can write") {
  {
    const UniqueFd writer = open_file(path("f"), O_RDWR);
    check_refused("ro", 1, "files are open for writing");
    CHECK(error_of_write() == 0);
  }
  // Its descriptor goes, and its mapping stays: so does the pin.
  int held[2];
  REQUIRE(pipe2(held, O_CLOEXEC) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const int writer = open(path("f").c_str(), O_RDWR);
    std::uint64_t pin = 0;
    std::size_t length = 0;
    if (daxfs_pin(writer, 0, 8192, DAXFS_PIN_WRITE, &pin) != 0) _exit(1);
    if (daxfs_map(writer, pin, &length) == nullptr) _exit(2);
    if (const pid_t heir = fork(); heir != 0) _exit(heir > 0 ? 0 : 3);
    close(writer);
    close(held[1]);
    char byte;
    while (read(held[0], &byte, 1) > 0) {
    }
    _exit(0);
  }
  const UniqueFd end(held[0]);
  UniqueFd heir(held[1]);
  int ended = 0;
  REQUIRE(waitpid(child, &ended, 0) == child);
  REQUIRE(WEXITSTATUS(ended) == 0);
  check_refused("ro", 1, "write pins are held");
  CHECK(error_of_write() == 0);
  heir = UniqueFd();
  CHECK(eventually([&] { return ctl("pins").empty(); }));
  must_change("ro");
}

TEST_CASE_METHOD(Changed, "a remount switches policies, and takes more away") {
  must_change("rw,pin_policy=wait,wait_timeout=5s");
  CHECK(status()["policy"]["pin_policy"] == "wait");
  CHECK(status()["policy"]["wait_timeout"] == 5);
  // mount(8) adds what the kernel shows of the mount.
  must_change(
      "rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other,noexec");
  CHECK((flags_now() & (ST_NOSUID | ST_NODEV | ST_NOEXEC)) == (ST_NOSUID | ST_NODEV | ST_NOEXEC));
  must_change("exec,dev,suid");
  CHECK((flags_now() & (ST_NOSUID | ST_NODEV | ST_NOEXEC)) == (ST_NOSUID | ST_NODEV));
  CHECK(status()["policy"]["pin_policy"] == "wait");
  must_change("rw,nosuid,nodev,noexec");
  must_change("rw,nosuid,nodev,relatime,user_id=0,group_id=0");
  CHECK((flags_now() & (ST_NOSUID | ST_NODEV | ST_NOEXEC)) == (ST_NOSUID | ST_NODEV));
  check_refused("rw,nodev,relatime,user_id=0,group_id=0", 1, "nosuid cannot be changed to suid");
}

TEST_CASE_METHOD(Changed, "what a remount cannot do it does not do in part") {
  check_refused("ro,pin_policy=ignore", 2, "unsafe_demo");
  check_refused("ro,pin_policy=dfer", 2, "did you mean 'defer'?");
  check_refused("ro,nonsense", 2, "nonsense");
  check_refused("ro,cache=none", 1, "cache=through cannot be changed to cache=none");
  check_refused("ro,noatime", 1, "strictatime cannot be changed to noatime");
  check_refused("ro,noacl", 1, "acl cannot be changed to noacl");
  check_refused("ro,direct", 1, "no direct cannot be changed to direct");
  check_refused("ro,unsafe_demo,pin_policy=ignore", 1, "no unsafe_demo cannot be changed");
  const Finished other = run({tool("daxfs"), "/dev/null", path(), "-o", "remount,ro"});
  CHECK(other.code == 1);
  CHECK(other.err.find("the pool there is " + pool()) != std::string::npos);
  const Finished nothing = run({tool("daxfs"), pool(), beside("."), "-o", "remount,ro"});
  CHECK(nothing.code == 1);
  CHECK(nothing.err.find("no daxfs is mounted there") != std::string::npos);
  Mount::remount("ro");
  check_refused("rw", 1, "mounted read-only");
}

TEST_CASE_METHOD(Changed, "strangers remount nothing") {
  const Finished stranger = run_as(1000, {"daxfs", pool(), path(), "-o", "remount,ro"});
  CHECK(stranger.code == 1);
  CHECK(error_of_write() == 0);
  REQUIRE(chmod(path().c_str(), 0755) == 0);
  daxfs_remount_args args{.read_only = 2, .reserved = 0};
  const UniqueFd root = open_file(path(), O_RDONLY | O_DIRECTORY);
  CHECK(ioctl(root.get(), DAXFS_IOC_REMOUNT, &args) == -1);
  CHECK(errno == EINVAL);
  const pid_t child = fork();
  if (child == 0) {
    args.read_only = 1;
    if (setuid(1000) != 0) _exit(1);
    _exit(ioctl(root.get(), DAXFS_IOC_REMOUNT, &args) == -1 && errno == EPERM ? 0 : 2);
  }
  int ended = 0;
  REQUIRE(waitpid(child, &ended, 0) == child);
  CHECK(WEXITSTATUS(ended) == 0);
  CHECK(status()["read_only"] == false);
}

TEST_CASE_METHOD(Changed, "a second mount of a pool shows the first one") {
  const std::string second = beside("second");
  REQUIRE(mkdir(second.c_str(), 0755) == 0);
  const auto again = [&](const std::string& options) {
    return run({tool("daxfs"), pool(), second, "-o", options});
  };
  const auto refused = [&](const std::string& options, const std::string& how) {
    const Finished done = again(options);
    INFO(options << ": " << done.err);
    CHECK(done.code == 1);
    CHECK(done.err.find(path() + ", " + how) != std::string::npos);
    CHECK(rmdir(second.c_str()) == 0);  // nothing is mounted there
    REQUIRE(mkdir(second.c_str(), 0755) == 0);
  };
  refused("ro", "read-write");
  refused("cache=none", "cache=through");
  refused("noatime", "strictatime");
  refused("noacl", "acl");
  refused("direct", "no direct");
  refused("sync", "async");
  refused("pin_policy=defer", "otherwise than with pin_policy=defer");

  REQUIRE(run({tool("daxfsctl"), "policy", path(), "set", "defer"}).code == 0);
  const Finished done = again("pin_policy=defer,nosuid");
  INFO(done.err);
  REQUIRE(done.code == 0);
  CHECK(read_file(second + "/f").size() == 8192);
  write_file(second + "/g", "by the second");
  CHECK(read_file(path("g")) == "by the second");
  struct statvfs now {};
  REQUIRE(statvfs(second.c_str(), &now) == 0);
  CHECK((now.f_flag & ST_NOSUID) != 0);
  // Each goes for itself.
  CHECK(umount2(second.c_str(), 0) == 0);
  CHECK(read_file(path("g")) == "by the second");
}

TEST_CASE_METHOD(Changed, "a directory of the pool that is mounted elsewhere is not the pool") {
  const std::string part = beside("part");
  const std::string second = beside("second");
  REQUIRE(mkdir(part.c_str(), 0755) == 0);
  REQUIRE(mkdir(second.c_str(), 0755) == 0);
  // What root's command must not read: it is whoever's directory.
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  REQUIRE(mkdir(path("d/.daxfs").c_str(), 0755) == 0);
  REQUIRE(mkfifo(path("d/.daxfs/policy").c_str(), 0600) == 0);
  REQUIRE(::mount(path("d").c_str(), part.c_str(), nullptr, MS_BIND, nullptr) == 0);
  // While the whole is mounted, too, that is shown.
  REQUIRE(run({tool("daxfs"), pool(), second}).code == 0);
  CHECK(read_file(second + "/f").size() == 8192);
  CHECK(umount2(second.c_str(), 0) == 0);

  REQUIRE(umount2(path().c_str(), 0) == 0);
  const Finished refused = run({tool("daxfs"), pool(), second});
  CHECK(refused.code == 1);
  CHECK(refused.err.find("on " + part + " with a part of it; umount that first") !=
        std::string::npos);
  const Finished remounted = run({tool("daxfs"), pool(), part, "-o", "remount,ro"});
  INFO(remounted.err);
  CHECK(remounted.code == 0);
  CHECK(umount2(part.c_str(), 0) == 0);
  end_of_daemon();
  mount();
}

TEST_CASE("a daemon that was started with a small stack has what it needs") {
  need_mounts();
  const TempDir dir;
  const std::string pool = make_pool(dir.path("pool"));
  const std::string mnt = dir.path("mnt");
  REQUIRE(mkdir(mnt.c_str(), 0755) == 0);
  Process daemon(
      {"/bin/sh", "-c", R"(ulimit -s 64; exec "$0" "$@")", tool("daxfs"), pool, mnt, "-f"});
  REQUIRE(daemon.says(" on " + mnt + ":"));
  CHECK(run({tool("daxfsctl"), "status", mnt}).code == 0);
  CHECK(umount2(mnt.c_str(), MNT_DETACH) == 0);
  CHECK(daemon.finish(kPatience).code == 0);
}

TEST_CASE("a pool whose name is another pool's now is mounted as itself") {
  Mount mount;
  write_file(mount.path("f"), "of the first");
  const std::string moved = mount.beside("moved");
  if (!pool_device().empty()) skip_here("a device cannot be moved");
  REQUIRE(rename(mount.pool().c_str(), moved.c_str()) == 0);
  const std::string second = mount.beside("second");
  REQUIRE(mkdir(second.c_str(), 0755) == 0);
  make_pool(mount.pool(), "8M");
  {
    Process daemon({tool("daxfs"), mount.pool(), second, "-f"});
    const bool ready = daemon.says(" on " + second + ":");
    INFO(daemon.err());
    CHECK(ready);
    CHECK(access((second + "/f").c_str(), F_OK) != 0);
    CHECK(umount2(second.c_str(), ready ? 0 : MNT_DETACH) == 0);
    if (ready) CHECK(daemon.finish(kPatience).code == 0);
  }
  REQUIRE(rename(moved.c_str(), mount.pool().c_str()) == 0);
}

}  // namespace daxfs::test
