// Who lives is told in every pid namespace, and of forked children as well.
#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::uint64_t kLength = 4 << 20;

void need_namespaces() {
  need_mounts();
  if (geteuid() != 0) skip_here("only root may make pid namespaces");
  if (run({"/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "true"}).code != 0) {
    skip_here("pid namespaces cannot be made here");
  }
}

Finished fsck_elsewhere(const Mount& mount) {
  return run({"/usr/bin/unshare", "--pid", "--fork", "--mount-proc", tool("fsck.daxfs"), "-y",
              mount.pool()});
}

// The file loses its blocks, and others take all the space that there is.
void take_everything(const Mount& mount) {
  REQUIRE(truncate(mount.path("f").c_str(), 0) == 0);
  const UniqueFd other(open(mount.path("other").c_str(), O_RDWR | O_CREAT, 0600));
  const std::string piece(1 << 20, 'x');
  while (write(other.get(), piece.data(), piece.size()) > 0) {
  }
}

}  // namespace

TEST_CASE("fsck in another pid namespace keeps what a living holder has pinned") {
  need_namespaces();
  Mount mount({.options = "pin_policy=defer,exit_grace=0"});
  HoldProcess holder(mount.path("f"), 0, kLength, {"--allocate"});
  mount.kill_daemon();
  CHECK(fsck_elsewhere(mount).code <= 1);
  mount.mount("pin_policy=defer,exit_grace=0");
  take_everything(mount);
  CHECK(mount.limbo() == kLength);
  CHECK(holder.stop().code == 0);
  CHECK(eventually([&] { return mount.limbo() == 0; }));
}

TEST_CASE("a forked child that maps a pin outlives its parent and the daemon") {
  need_mounts();
  Mount mount({.options = "pin_policy=defer,exit_grace=0"});
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  ReadyChild parent([&] {
    const int fd = open(mount.path("f").c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t pin = 0;
    if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0) return 1;
    std::size_t length = 0;
    if (daxfs_map(fd, pin, &length) == nullptr) return 2;
    const pid_t child = fork();
    if (child == 0) {
      alarm(120);  // whatever becomes of the test
      for (;;) pause();
    }
    return write(pipe_ends[1], &child, sizeof child) == sizeof child ? 0 : 3;
  });
  REQUIRE(parent.result() == 0);
  pid_t child = 0;
  REQUIRE(read(pipe_ends[0], &child, sizeof child) == sizeof child);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  mount.kill_daemon();
  SECTION("the parent has gone before the next mount") {
    parent.kill();
    mount.mount("pin_policy=defer,exit_grace=0");
  }
  SECTION("it goes under the next mount") {
    mount.mount("pin_policy=defer,exit_grace=0");
    parent.kill();
  }
  take_everything(mount);
  CHECK(mount.limbo() == kLength);
  REQUIRE(::kill(child, SIGKILL) == 0);
  CHECK(eventually([&] { return mount.limbo() == 0; }));
}

TEST_CASE("what keeps a pin whose process has ended is shown") {
  need_mounts();
  Mount mount({.options = "pin_policy=defer,exit_grace=0"});
  const std::string file = mount.path("f");
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  const bool maps = GENERATE(true, false);
  const auto kept_by = [&] {
    const Json pins = mount.ctl("pins");
    return pins.empty() ? Json("nothing") : pins[0]["kept_by"];
  };
  ReadyChild parent([&] {
    const int fd = open(file.c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t pin = 0;
    if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0) return 1;
    std::size_t length = 0;
    if (maps && daxfs_map(fd, pin, &length) == nullptr) return 2;
    const pid_t child = fork();
    if (child == 0) {
      alarm(120);  // whatever becomes of the test
      if (maps) close(fd);
      for (;;) pause();
    }
    return write(pipe_ends[1], &child, sizeof child) == sizeof child ? 0 : 3;
  });
  REQUIRE(parent.result() == 0);
  pid_t child = 0;
  REQUIRE(read(pipe_ends[0], &child, sizeof child) == sizeof child);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  CHECK(kept_by() == nullptr);
  const pid_t named = parent.pid();
  parent.kill();
  const std::string keeper = maps ? "mapping" : "descriptor";
  CHECK(eventually([&] { return kept_by() == keeper; }));
  CHECK(mount.ctl("pins")[0]["pid"] == named);
  CHECK(mount.ctl("pins")[0]["command"] == "");
  CHECK(contains(run({tool("daxfsctl"), "pins", mount.path()}).out, "another's " + keeper));
  if (maps) {
    mount.kill_daemon();
    mount.mount("pin_policy=defer,exit_grace=0");
    CHECK(kept_by() == keeper);
  }
  REQUIRE(::kill(child, SIGKILL) == 0);
  CHECK(eventually([&] { return mount.ctl("pins").empty(); }));
}

TEST_CASE("a pin without a mapping is kept elsewhere, and not released while its process lives") {
  need_namespaces();
  Mount mount({.options = "pin_policy=defer,exit_grace=0"});
  // Without a mapping there is no lock: its process alone speaks for it.
  ReadyChild holder([&] {
    const int fd = open(mount.path("f").c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t pin = 0;
    return daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) == 0 ? 0 : 1;
  });
  REQUIRE(holder.result() == 0);
  const std::string id = std::to_string(mount.ctl("pins")[0]["id"].get<std::uint64_t>());
  mount.kill_daemon();
  CHECK(fsck_elsewhere(mount).code <= 1);
  mount.mount("pin_policy=defer,exit_grace=0");
  take_everything(mount);
  CHECK(mount.limbo() == kLength);

  // It is seen from here: then there is nothing to release.
  const auto release = [&](const std::string& pin) {
    return run({tool("daxfsctl"), "release", mount.path(), "--pin", pin});
  };
  const Finished refused = release(id);
  CHECK(refused.code == 1);
  CHECK(contains(refused.err, "its process lives"));
  CHECK(contains(release("999").err, "no such pin"));
  CHECK(mount.run_as(65534, {"daxfsctl", "release", mount.path(), "--pin", id}).code == 1);
  CHECK(mount.limbo() == kLength);
  holder.kill();
  CHECK(eventually([&] { return mount.limbo() == 0; }));
}

TEST_CASE("a survivor's path is not that of another file that has got its number") {
  need_mounts();
  Mount mount({.options = "pin_policy=defer,exit_grace=0"});
  ReadyChild holder([&] {
    const int fd = open(mount.path("f").c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t pin = 0;
    return daxfs_pin(fd, 0, kLength, DAXFS_PIN_ALLOCATE, &pin) == 0 ? 0 : 1;
  });
  REQUIRE(holder.result() == 0);
  const auto inode = mount.ctl("pins")[0]["inode"].get<std::uint64_t>();
  const auto make_files = [&] {
    bool reused = false;
    for (int i = 0; i < 20; ++i) {
      const std::string path = mount.path("other" + std::to_string(i));
      const UniqueFd file = open_file(path, O_RDWR | O_CREAT);
      reused = reused || status_of(path).st_ino == inode;
    }
    return reused;
  };
  mount.kill_daemon();
  mount.mount("pin_policy=defer,exit_grace=0");
  REQUIRE(unlink(mount.path("f").c_str()) == 0);
  CHECK_FALSE(make_files());
  CHECK(mount.ctl("pins")[0]["path"] == "");
  for (int i = 0; i < 20; ++i) unlink(mount.path("other" + std::to_string(i)).c_str());
  // The next mount finds no such file any more, and has its number to give away.
  mount.kill_daemon();
  mount.mount("pin_policy=defer,exit_grace=0");
  CHECK(make_files());
  const Json pins = mount.ctl("pins");
  REQUIRE(pins.size() == 1);
  CHECK(pins[0]["inode"] == inode);
  CHECK(pins[0]["path"] == "");
}

TEST_CASE("DAXFS_POOL names the pool where the daemon's path leads elsewhere") {
  need_mounts();
  Mount mount;
  const std::string moved = mount.pool() + ".moved";
  if (!pool_device().empty()) skip_here("a device cannot be moved");
  std::filesystem::rename(mount.pool(), moved);
  const auto map = [&] {
    const UniqueFd fd(open(mount.path("f").c_str(), O_RDWR | O_CREAT, 0600));
    std::uint64_t pin = 0;
    if (daxfs_pin(fd.get(), 0, kLength, DAXFS_PIN_ALLOCATE, &pin) != 0) return 255;
    std::size_t length = 0;
    return daxfs_map(fd.get(), pin, &length) != nullptr ? 0 : errno;
  };
  CHECK(in_child(map) == ENOENT);
  const auto with = [&](const std::string& path) {
    return in_child([&] {
      setenv("DAXFS_POOL", path.c_str(), 1);
      return map();
    });
  };
  CHECK(with(moved) == 0);
  CHECK(with("/dev/null") == ESTALE);
  CHECK(with("/nowhere") == ENOENT);

  // Or a descriptor of it, as somebody hands it on who may open it.
  const auto by_descriptor = [&](const std::string& path, int mode, uid_t user) {
    const UniqueFd pool(open(path.c_str(), mode));
    const UniqueFd fd(open(mount.path("f").c_str(), O_RDWR | O_CREAT, 0600));
    return in_child(
        [&] {
          std::uint64_t pin = 0;
          if (daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0)
            return 255;
          std::size_t length = 0;
          auto* const view = static_cast<char*>(daxfs_map_at(pool.get(), fd.get(), pin, &length));
          if (view == nullptr) return errno;
          view[7] = 'd';
          iovec part{};
          if (daxfs_map_iov_at(pool.get(), fd.get(), pin, &part, 1) != 1) return 254;
          return static_cast<char*>(part.iov_base)[7] == 'd' ? 0 : 253;
        },
        user);
  };
  CHECK(by_descriptor(moved, O_RDWR, 0) == 0);
  CHECK(by_descriptor(moved, O_RDWR, 65534) == 0);
  CHECK(by_descriptor(moved, O_RDONLY, 65534) == EACCES);
  CHECK(by_descriptor("/dev/null", O_RDWR, 0) == ESTALE);
  CHECK(by_descriptor("/nowhere", O_RDWR, 0) == EBADF);
  std::filesystem::rename(moved, mount.pool());
}

}  // namespace daxfs::test
