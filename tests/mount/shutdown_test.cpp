// The shutdown ioctl of ext4 and XFS: nothing goes on, nobody hangs, and the next mount has what
// was acknowledged, as after a crash.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "tests/mount/direct_client.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr unsigned long kShutdown = 0x8004587d;  // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN

// errno. The word behind it, which says what is to be written first, must stay as it is.
int shut_down(int fd) {
  std::uint32_t how = 1;
  const int code = error_of(ioctl(fd, kShutdown, &how));
  return how == 1 ? code : -1;
}

int shut_down(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return fd ? shut_down(fd.get()) : errno;
}

int error_of_open(const std::string& path, int flags) {
  const UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  return fd ? 0 : errno;
}

// What calls on a mount answer, by name.
struct Answer {
  const char* call;
  int code;
};
std::vector<Answer> answers(const Mount& mount, int file, int directory) {
  const std::string f = mount.path("f");
  std::array<char, 4096> buffer{};
  std::uint64_t pin = 0;
  return {
      {"open", error_of_open(f, O_RDONLY)},
      {"create", error_of_open(mount.path("new"), O_WRONLY | O_CREAT)},
      {"tmpfile", error_of_open(mount.path(), O_WRONLY | O_TMPFILE)},
      {"lookup", error_of(access(mount.path("never seen").c_str(), F_OK))},
      {"mkdir", error_of(mkdir(mount.path("d2").c_str(), 0755))},
      {"unlink", error_of(unlink(f.c_str()))},
      {"rename", error_of(rename(f.c_str(), mount.path("g").c_str()))},
      {"link", error_of(link(f.c_str(), mount.path("g").c_str()))},
      {"truncate", error_of(truncate(f.c_str(), 1))},
      {"chmod", error_of(chmod(f.c_str(), 0600))},
      {"setxattr", error_of(setxattr(f.c_str(), "user.a", "b", 1, 0))},
      {"getxattr", error_of(getxattr(f.c_str(), "user.b", buffer.data(), buffer.size()))},
      {"opendir", error_of_open(mount.path(), O_RDONLY | O_DIRECTORY)},
      {"control file", error_of_open(mount.path(".daxfs/status"), O_RDONLY)},
      {"write", error_of(pwrite(file, "x", 1, 0))},
      {"append", error_of(pwrite(file, "x", 1, 1 << 20))},
      {"fsync", error_of(fsync(file))},
      {"fallocate", error_of(fallocate(file, 0, 0, 1 << 20))},
      {"ftruncate", error_of(ftruncate(file, 0))},
      {"seek", error_of(lseek(file, 0, SEEK_DATA))},
      {"pin", error_of(daxfs_pin(file, 0, 4096, 0, &pin))},
      {"fsync of a directory", error_of(fsync(directory))},
  };
}

}  // namespace

TEST_CASE("a shutdown ends every call, and the next mount has what was acknowledged") {
  const bool read_only = GENERATE(false, true);
  Mount mount({.size = "16M+"});
  const std::string content = pattern(100'000, 1);
  const std::uint64_t empty = mount.free();
  write_file(mount.path("f"), content);
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  write_file(mount.path("gone"), content);
  if (read_only) mount.remount("ro");
  UniqueFd file = open_file(mount.path("f"), read_only ? O_RDONLY : O_RDWR);
  UniqueFd directory = open_file(mount.path("d"), O_RDONLY | O_DIRECTORY);
  UniqueFd unlinked = open_file(mount.path("gone"), O_RDONLY);
  if (!read_only) REQUIRE(unlink(mount.path("gone").c_str()) == 0);

  CHECK(in_child([&] { return shut_down(mount.path()) == EPERM ? 0 : 1; }, 1000) == 0);
  // Root of a container that may do nothing with the machine.
  CHECK(in_child([&] {
          __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
          __user_cap_data_struct none[2] = {};
          none[0].effective = none[0].permitted = 1u << CAP_DAC_OVERRIDE;
          if (syscall(SYS_capset, &header, none) != 0) return 2;
          return shut_down(mount.path()) == EPERM ? 0 : 1;
        }) == 0);
  CHECK(read_file(mount.path("f")) == content);
  // On a file as well as on a directory, and again.
  CHECK(shut_down(file.get()) == 0);
  CHECK(shut_down(directory.get()) == 0);
  if (!read_only) {
    for (const Answer& one : answers(mount, file.get(), directory.get())) {
      INFO(one.call);
      CHECK(one.code == EIO);
    }
  }
  std::array<char, 16> byte{};
  // The kernel drops what it has cached a little later.
  CHECK(eventually([&] { return error_of(pread(file.get(), byte.data(), 1, 0)) == EIO; }));
  struct statvfs space {};
  CHECK(statvfs(mount.path().c_str(), &space) == 0);
  struct stat status {};
  CHECK(fstat(file.get(), &status) == 0);
  CHECK(status.st_size == static_cast<off_t>(content.size()));
  CHECK(contains(mount.log(), "shut down by process " + std::to_string(getpid())));

  for (UniqueFd* const fd : {&file, &directory, &unlinked}) *fd = UniqueFd();
  mount.remount();
  CHECK(difference(read_file(mount.path("f")), content) == "");
  CHECK(status_of(mount.path("d")).st_nlink == 2);
  CHECK(error_of_open(mount.path("gone"), O_RDONLY) == (read_only ? 0 : ENOENT));
  for (const char* name : {"f", "gone"}) unlink(mount.path(name).c_str());
  REQUIRE(rmdir(mount.path("d").c_str()) == 0);
  CHECK(mount.space_becomes(empty, 0));
}

TEST_CASE("who waits at a shutdown is told") {
  Mount mount({.options = "pin_policy=wait"});
  // The kernel lets one caller at a time change a file or a directory: each has one of its own.
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  const std::string source = mount.path("d/source");
  write_file(source, "s");
  const std::array<std::string, 4> files{mount.path("truncated"), mount.path("punched"),
                                         mount.path("d/replaced"), mount.path("fenced")};
  std::vector<UniqueFd> holders;
  std::vector<std::uint64_t> pins(files.size());
  for (std::size_t i = 0; i < files.size(); ++i) {
    write_file(files[i], pattern(8 * kBlock, 1));
    holders.push_back(open_file(files[i], O_RDWR));
    REQUIRE(daxfs_pin(holders.back().get(), 0, 4 * kBlock, 0, &pins[i]) == 0);
  }
  Process events({tool("daxfsctl"), "events", mount.path()});
  Attempt truncates([&] { return shrink(files[0], 0); });
  REQUIRE(waiting_becomes(mount, 1));
  Attempt punches([&] { return punch_blocks(files[1], 0, 2); });
  REQUIRE(waiting_becomes(mount, 2));
  Attempt renames([&] { return error_of(rename(source.c_str(), files[2].c_str())); });
  REQUIRE(waiting_becomes(mount, 3));
  Attempt fences([&] { return punch_blocks(files[3], 0, 2); });
  REQUIRE(waiting_becomes(mount, 4));
  Attempt pinner([&] { return pin_and_keep(files[3], 0, kBlock); });
  REQUIRE(waiting_becomes(mount, 5));
  Attempt leases([&] {
    const UniqueFd fd(open(files[3].c_str(), O_RDWR | O_CLOEXEC));
    std::uint64_t lease = 0;
    return error_of(daxfs_lease(fd.get(), 0, kBlock, 0, &lease));
  });
  REQUIRE(waiting_becomes(mount, 6));
  REQUIRE(events.says("waiting"));

  CHECK(shut_down(holders[0].get()) == 0);
  for (Attempt* const one : {&truncates, &punches, &renames, &fences, &pinner, &leases}) {
    CHECK(one->finish() == EIO);
  }
  CHECK_FALSE(events.finish(kPatience).timed_out);
  CHECK(error_of(daxfs_unpin(holders[0].get(), pins[0])) == EIO);

  holders.clear();
  mount.remount();
  for (const std::string& file : files)
    CHECK(difference(read_file(file), pattern(8 * kBlock, 1)) == "");
  CHECK(read_file(source) == "s");
}

TEST_CASE("pins outlive a shutdown, and hold at the next mount") {
  Mount mount;
  const std::string path = mount.path("f");
  write_file(path, pattern(8 * kBlock, 1));
  {
    // It closes its descriptor after the shutdown, and keeps what it has mapped.
    ReadyChild holder([&] {
      const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
      std::uint64_t pin = 0;
      std::size_t length = 0;
      if (daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE, &pin) != 0) return 1;
      if (daxfs_map(fd.get(), pin, &length) == nullptr) return 2;
      return shut_down(fd.get()) == 0 ? 0 : 3;
    });
    mount.remount();
    const Json pins = mount.ctl("pins");
    REQUIRE(pins.size() == 1);
    CHECK(pins[0]["length"] == kBlock);
    CHECK(error_of(truncate(path.c_str(), 0)) == ETXTBSY);
  }
  CHECK(eventually([&] { return mount.ctl("pins").empty(); }));
  CHECK(error_of(truncate(path.c_str(), 0)) == 0);
}

TEST_CASE("a shutdown ends what programs copy by themselves") {
  if (pool_device().empty()) need_mounts();
  DirectMount mount;
  {
    Direct direct(mount.file);
    direct.write(0, std::string(kBlock, 'a'));
    const daxfs_counts before = direct.counts();
    REQUIRE(shut_down(mount.file) == 0);
    const std::string text(kBlock, 'b');
    CHECK(daxfs_pwrite(direct.direct, text.data(), text.size(), 0) == -1);
    CHECK(errno == EIO);
    std::string seen(kBlock, '?');
    CHECK(daxfs_pread(direct.direct, seen.data(), seen.size(), 0) == -1);
    CHECK(errno == EIO);
    CHECK(direct.counts().direct == before.direct);
  }
  mount.remount("direct");
  CHECK(read_file(mount.file).substr(0, kBlock) == std::string(kBlock, 'a'));
  CHECK(mount.attached(0));
}

TEST_CASE("what a mapping has stored and nobody has written back is lost with an error") {
  Mount mount;
  const std::string path = mount.path("f");
  write_file(path, pattern(4 * kBlock, 1));
  {
    UniqueFd fd = open_file(path, O_RDWR);
    char* const view = static_cast<char*>(
        mmap(nullptr, 4 * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
    REQUIRE(view != MAP_FAILED);
    view[0] = '#';
    REQUIRE(msync(view, 4 * kBlock, MS_SYNC) == 0);
    view[kBlock] = '#';
    CHECK(shut_down(fd.get()) == 0);
    CHECK(error_of(msync(view, 4 * kBlock, MS_SYNC)) == EIO);
    CHECK(munmap(view, 4 * kBlock) == 0);
  }
  mount.remount();
  std::string expected = pattern(4 * kBlock, 1);
  expected[0] = '#';
  CHECK(difference(read_file(path), expected) == "");
}

TEST_CASE("whatever was acknowledged before a shutdown in the middle of a load is there") {
  Mount mount;
  constexpr unsigned kWriters = 4;
  std::array<std::vector<std::string>, kWriters> made;
  std::atomic<unsigned> busy = 0;
  std::vector<std::thread> writers;
  for (unsigned writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      for (unsigned i = 0;; ++i) {
        const std::string name = std::to_string(writer) + "-" + std::to_string(i);
        const UniqueFd fd(open(mount.path(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        const std::string data = pattern(5000, i);
        if (!fd || pwrite(fd.get(), data.data(), data.size(), 0) != 5000) return;
        made[writer].push_back(name);
        if (i == 100) busy += 1;
        if (i % 3 != 0) continue;
        if (unlink(mount.path(name).c_str()) != 0) return made[writer].pop_back();
        made[writer].back().insert(0, "!");
      }
    });
  }
  const bool all_busy = eventually([&] { return busy == kWriters; });
  CHECK(shut_down(mount.path()) == 0);
  for (std::thread& writer : writers) writer.join();
  REQUIRE(all_busy);
  mount.remount();
  std::size_t wrong = 0;
  for (const auto& names : made) {
    for (const std::string& name : names) {
      if (name[0] == '!') {
        wrong += access(mount.path(name.substr(1)).c_str(), F_OK) == 0 ? 1 : 0;
        continue;
      }
      const auto number = static_cast<unsigned>(std::stoul(name.substr(2)));
      wrong += read_file(mount.path(name)) == pattern(5000, number) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace daxfs::test
