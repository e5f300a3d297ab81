// What other users of the machine can make of a mount or a pool that is root's.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr uid_t kStranger = 4242;

// Who runs id(1) with set-user-id of root, as a stranger.
std::string effective_user(const Mount& mount) {
  const std::string program = mount.path("id");
  std::filesystem::copy_file("/usr/bin/id", program, std::filesystem::copy_options::skip_existing);
  REQUIRE(chmod(program.c_str(), 04755) == 0);
  const Finished ran = run({program, "-u"}, kStranger);
  INFO(ran.err);
  REQUIRE(ran.code == 0);
  return ran.out;
}

int open_device(const Mount& mount) {
  const std::string node = mount.path("null");
  if (mknod(node.c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0 && errno != EEXIST) return errno;
  const daxfs::UniqueFd fd(open(node.c_str(), O_WRONLY | O_CLOEXEC));
  return fd ? 0 : errno;
}

void give_to(const std::string& path, uid_t user, gid_t group, mode_t mode) {
  REQUIRE(chown(path.c_str(), user, group) == 0);
  REQUIRE(chmod(path.c_str(), mode) == 0);
}

// By mount(8) and mount.fuse3, which has words of its own about suid and dev.
unsigned long flags_by_mount_command(const Mount& mount, const std::string& options) {
  const std::string daxfs = tool("daxfs");
  const Finished done = run({"/bin/mount", "-t", "fuse." + daxfs, mount.pool(), mount.path(), "-o",
                             options.empty() ? "noatime" : options});
  INFO(done.err);
  REQUIRE(done.code == 0);
  struct statvfs answer {};
  const int asked = statvfs(mount.path().c_str(), &answer);
  REQUIRE(eventually([&] { return umount2(mount.path().c_str(), 0) == 0; }));
  REQUIRE(asked == 0);
  return answer.f_flag & (ST_NOSUID | ST_NODEV);
}

// Whether this machine's mount(8) and mount.fuse3 tell the filesystem's own program of suid and
// dev.
bool hands_on_suid() {
  const TempDir dir;
  const std::string program = dir.path("program");
  write_file(program, "#!/bin/sh\nprintf '%s,' \"$@\" >" + dir.path("told") + "\n");
  REQUIRE(chmod(program.c_str(), 0755) == 0);
  const Finished done =
      run({"/bin/mount", "-t", "fuse." + program, "none", dir.path(""), "-o", "suid,dev"});
  INFO(done.err);
  REQUIRE(done.code == 0);
  // mount.fuse3 ends the list with a suid of its own.
  const std::string told = read_file(dir.path("told"));
  return told.find("suid") != told.rfind("suid");
}

}  // namespace

TEST_CASE("set-user-id and devices work only where nobody but root can write the pool") {
  if (!pool_device().empty()) skip_here("does not change a device's owner");
  Mount mount;
  const std::string advice = "-o suid,dev";
  CHECK(effective_user(mount) == "0\n");
  CHECK(open_device(mount) == 0);
  CHECK_FALSE(contains(mount.log(), advice));

  struct Case {
    uid_t owner;
    gid_t group;
    mode_t mode;
  };
  for (const Case& one : {Case{0, kStranger, 0660}, Case{0, 0, 0606}, Case{kStranger, 0, 0600}}) {
    INFO(one.owner << " " << one.mode);
    mount.unmount();
    give_to(mount.pool(), one.owner, one.group, one.mode);
    mount.mount();
    CHECK(effective_user(mount) == std::to_string(kStranger) + "\n");
    CHECK(open_device(mount) == EACCES);
    CHECK(contains(mount.log(), mount.pool()));
    CHECK(contains(mount.log(), advice));
  }
  mount.remount("suid");
  CHECK(effective_user(mount) == "0\n");
  CHECK(open_device(mount) == EACCES);
  CHECK(contains(mount.log(), "can become root"));
  CHECK(contains(mount.log(), "mounted nodev"));
  mount.remount("nosuid,nodev");
  CHECK_FALSE(contains(mount.log(), advice));
  mount.unmount();
  give_to(mount.pool(), 0, 0, 0644);
  mount.mount();
  CHECK(effective_user(mount) == "0\n");
}

TEST_CASE("set-user-id does not work where others than root can replace the pool") {
  if (!pool_device().empty()) skip_here("does not change a device's owner");
  const TempDir dir;
  const std::string above = dir.path("above");
  const std::string parent = above + "/parent";
  REQUIRE(mkdir(above.c_str(), 0755) == 0);
  REQUIRE(mkdir(parent.c_str(), 0755) == 0);
  Mount mount({.pool = parent + "/pool"});
  const auto works = [&] {
    mount.remount();
    return effective_user(mount) == "0\n";
  };
  CHECK(works());
  for (const std::string& one : {parent, above}) {
    INFO(one);
    give_to(one, 0, kStranger, 0775);
    CHECK_FALSE(works());
    CHECK(contains(mount.log(), "can write " + one + ","));
    give_to(one, kStranger, 0, 0755);
    CHECK_FALSE(works());
    give_to(one, 0, kStranger, 01777);  // as /tmp is
    CHECK(works());
    give_to(one, 0, 0, 0755);
  }
}

TEST_CASE("by mount(8) nobody has asked for suid and dev") {
  if (!pool_device().empty()) skip_here("does not change a device's owner");
  if (access("/sbin/mount.fuse3", X_OK) != 0) skip_here("no mount.fuse3");
  Mount mount;
  mount.unmount();
  CHECK(flags_by_mount_command(mount, "") == 0);
  CHECK(flags_by_mount_command(mount, "nosuid") == ST_NOSUID);
  give_to(mount.pool(), 0, kStranger, 0660);
  CHECK(flags_by_mount_command(mount, "") == (ST_NOSUID | ST_NODEV));
  CHECK(flags_by_mount_command(mount, "nodev") == (ST_NOSUID | ST_NODEV));
  // Debian 12's mount(8) keeps suid and dev to itself, as they are its defaults; Debian 13's hands
  // them on, so that they were asked for.
  const unsigned long expected = hands_on_suid() ? 0 : ST_NOSUID | ST_NODEV;
  CHECK(flags_by_mount_command(mount, "suid,dev") == expected);
}

TEST_CASE("mkfs.daxfs by root leaves another user's file alone, unless it is told") {
  need_mounts();
  const TempDir dir;
  const std::string pool = dir.path("pool");
  write_file(pool, "");
  give_to(pool, kStranger, kStranger, 0644);
  const Finished refused = run({tool("mkfs.daxfs"), "--size", "8M", pool});
  CHECK(refused.code == 1);
  CHECK(contains(refused.err, pool));
  CHECK(contains(refused.err, "user " + std::to_string(kStranger)));
  CHECK(contains(refused.err, "--force"));
  CHECK(status_of(pool).st_size == 0);
  CHECK(run({tool("mkfs.daxfs"), "--force", "--size", "8M", pool}).code == 0);

  // Nor does a link that leads nowhere make a pool somewhere else.
  const std::string link = dir.path("link");
  REQUIRE(symlink(dir.path("elsewhere").c_str(), link.c_str()) == 0);
  CHECK(run({tool("mkfs.daxfs"), "--size", "8M", link}).code == 1);
  CHECK(access(dir.path("elsewhere").c_str(), F_OK) != 0);

  const std::string fresh = dir.path("fresh");
  REQUIRE(run({tool("mkfs.daxfs"), "--size", "8M", fresh}).code == 0);
  CHECK((status_of(fresh).st_mode & 0777) == 0600);
}

TEST_CASE(
    "a stranger has so many pins, leases and waiting requests, and root as many as it likes") {
  Mount mount({.options = "user_limit=3,pin_policy=wait"});
  const std::string file = mount.path("f");
  write_file(file, pattern(4 * kBlock, 1));
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  const auto pins_and_leases = [&](int most) {
    const daxfs::UniqueFd fd(open(file.c_str(), O_RDWR));
    std::uint64_t id = 0;
    for (int i = 0; i < most; ++i) {
      if (daxfs_pin(fd.get(), 0, kBlock, 0, &id) != 0) return 100 + errno;
      std::uint64_t lease = 0;
      if (daxfs_lease(fd.get(), 0, kBlock, 0, &lease) != 0) return 200 + errno;
    }
    const int pin = error_of(daxfs_pin(fd.get(), 0, kBlock, 0, &id));
    const int lease = error_of(daxfs_lease(fd.get(), 0, kBlock, 0, &id));
    if (pin == 0 && lease == 0) return 0;
    return pin == ENOMEM && lease == ENOLCK ? 1 : 2;
  };
  CHECK(in_child([&] { return pins_and_leases(3); }, kStranger) == 1);
  // They go with their file, soon after the grace has found that no device works for them.
  CHECK(eventually([&] { return live_status(mount)["pins"]["long"] == 0; }));
  CHECK(in_child([&] { return pins_and_leases(3); }, kStranger) == 1);
  CHECK(in_child([&] { return pins_and_leases(9); }) == 0);

  // A file each: the kernel lets one truncate of a file through at a time.
  std::vector<std::string> files;
  std::vector<std::unique_ptr<Holder>> holders;
  for (int i = 0; i < 5; ++i) {
    files.push_back(mount.path("f" + std::to_string(i)));
    write_file(files.back(), pattern(4 * kBlock, 1));
    REQUIRE(chmod(files.back().c_str(), 0666) == 0);
    holders.push_back(
        std::make_unique<Holder>([&] { return pin_and_keep(files.back(), 0, kBlock); }));
    REQUIRE(holders.back()->result() == 0);
  }
  std::vector<std::unique_ptr<Attempt>> waiting;
  for (int i = 0; i < 3; ++i) {
    const std::string& mine = files[static_cast<std::size_t>(i)];
    waiting.push_back(std::make_unique<Attempt>([&] { return shrink(mine, 0); }, kStranger));
  }
  REQUIRE(waiting_becomes(mount, 3));
  CHECK(in_child([&] { return shrink(files[3], 0); }, kStranger) == EAGAIN);
  Attempt another([&] { return shrink(files[4], 0); }, kStranger + 1);
  CHECK(waiting_becomes(mount, 4));
  CHECK(switch_policy(mount, "user_limit=1") == 0);  // who waits goes on waiting
  CHECK(waiting_becomes(mount, 4));
  CHECK(switch_policy(mount, "pin_policy=defer") == 0);
  for (const auto& one : waiting) CHECK(one->finish() == 0);
  CHECK(another.finish() == 0);
}

namespace {

struct Taken {
  int pins = 0;
  int error = 0;  // of the one that was refused
};

// As many pins of the file's first block as there are to be had.
Taken take_pins(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY);
  std::uint64_t id = 0;
  Taken taken;
  while (taken.pins < 20'000 && daxfs_pin(fd, 0, kBlock, 0, &id) == 0) ++taken.pins;
  taken.error = errno;
  return taken;
}

}  // namespace

TEST_CASE("pins of a file that a stranger may only read do not fill the pool") {
  Mount mount({.size = "64M+"});
  write_file(mount.path("f"), pattern(kBlock, 1));
  const std::uint64_t free = mount.free();
  const std::string file = mount.path("f");
  const auto until_refused = [&] {
    const Taken taken = take_pins(file);
    return taken.pins == 4096 ? taken.error : 255;
  };
  const Holder stranger(until_refused, kStranger);
  CHECK(stranger.result() == ENOMEM);
  CHECK(mount.free() > free - free / 64);
}

TEST_CASE("strangers together, too, leave the pool to others' files and pins") {
  // The records of one are more than a 64th of it.
  Mount mount({.size = "16M"});
  write_file(mount.path("f"), pattern(kBlock, 1));
  const std::uint64_t free = mount.free();
  const std::string file = mount.path("f");
  const auto until_refused = [&] {
    const Taken taken = take_pins(file);
    return taken.pins > 0 ? taken.error : 255;
  };
  const Holder first(until_refused, kStranger);
  CHECK(first.result() == ENOMEM);
  const Holder second([&] { return take_pins(file).error; }, kStranger + 1);
  CHECK(second.result() == ENOMEM);
  CHECK(mount.free() > free - free / 32);
  const Holder trusted([&] {
    const Taken taken = take_pins(file);
    return taken.pins == 20'000 ? 0 : taken.error;
  });
  CHECK(trusted.result() == 0);
}

TEST_CASE("a stranger's rename over a file that he has pinned hides nobody's directory for long") {
  Mount mount({.options = "pin_policy=wait"});
  const std::string shared = mount.path("shared");
  REQUIRE(mkdir(shared.c_str(), 0777) == 0);
  REQUIRE(chmod(shared.c_str(), 01777) == 0);
  const std::string file = shared + "/f";
  const std::string fresh = shared + "/fresh";
  for (const std::string& one : {file, fresh}) {
    write_file(one, pattern(4 * kBlock, 1));
    give_to(one, kStranger, kStranger, 0644);
  }
  const auto replace = [&] { return error_of(rename(fresh.c_str(), file.c_str())); };
  const auto look = [&] {
    const std::string name = shared + "/" + std::to_string(getpid());
    if (const int error = error_of(open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600))) {
      return error;
    }
    return std::filesystem::directory_iterator(shared) != std::filesystem::directory_iterator()
               ? 0
               : ENOENT;
  };
  Holder holder([&] { return pin_and_keep(file, 0, kBlock); }, kStranger);
  REQUIRE(holder.result() == 0);

  // However many he sends.
  std::vector<std::unique_ptr<Attempt>> renames;
  for (int i = 0; i < 20; ++i) renames.push_back(std::make_unique<Attempt>(replace, kStranger));
  REQUIRE(waiting_becomes(mount, 1));
  CHECK(Attempt(look).finish(Seconds(20)) == 0);
  for (const auto& one : renames) CHECK(one->finish(Seconds(20)) == ETXTBSY);

  // Root waits for as long as the policy says.
  Attempt by_root(replace);
  REQUIRE(waiting_becomes(mount, 1));
  holder.die();
  CHECK(by_root.finish() == 0);
}
