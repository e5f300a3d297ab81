// Open files, space in numbers, and everything still there after a remount.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct statvfs space_of(const Mount& mount) {
  struct statvfs space {};
  REQUIRE(statvfs(mount.path().c_str(), &space) == 0);
  return space;
}

}  // namespace

TEST_CASE("an unlinked file lives until its last close") {
  Mount mount;
  write_file(mount.path("other"), "");
  const std::uint64_t before = mount.free();
  const std::string data = pattern(100 * kBlock, 1);
  write_file(mount.path("f"), data);
  REQUIRE(mount.free() == before - data.size());
  {
    const daxfs::UniqueFd first = open_file(mount.path("f"), O_RDWR);
    const daxfs::UniqueFd second = open_file(mount.path("f"), O_RDONLY);
    REQUIRE(unlink(mount.path("f").c_str()) == 0);
    CHECK(error_of(access(mount.path("f").c_str(), F_OK)) == ENOENT);
    write_file(mount.path("f"), "another");
    CHECK(difference(read_at(second.get(), 0, data.size()), data) == "");
    write_at(first.get(), data.size(), "more");
    CHECK(read_at(second.get(), data.size(), 4) == "more");
    struct stat status {};
    REQUIRE(fstat(second.get(), &status) == 0);
    CHECK(status.st_nlink == 0);
    // Nobody gives it a name again.
    CHECK(error_of(linkat(first.get(), "", AT_FDCWD, mount.path("back").c_str(), AT_EMPTY_PATH)) ==
          ENOENT);
    REQUIRE(unlink(mount.path("f").c_str()) == 0);
    CHECK(mount.space_becomes(before - data.size() - kBlock, 0));
  }
  CHECK(mount.space_becomes(before, 0));
}

TEST_CASE("an unmount frees what was unlinked, though the daemon never saw the close") {
  Mount mount;
  write_file(mount.path("other"), "");
  const std::uint64_t before = mount.free();
  write_file(mount.path("f"), pattern(64 * kBlock, 1));
  const daxfs::UniqueFd fd = open_file(mount.path("f"), O_RDONLY);
  REQUIRE(unlink(mount.path("f").c_str()) == 0);
  mount.kill_daemon();
  mount.mount();
  CHECK(mount.free() == before);
}

TEST_CASE("O_APPEND appends, also for several writers") {
  Mount mount;
  const std::string file = mount.path("log");
  for (const int how : {0, O_DIRECT}) {
    write_file(file, "");
    const daxfs::UniqueFd a = open_file(file, O_WRONLY | O_APPEND | how);
    const daxfs::UniqueFd b = open_file(file, O_WRONLY | O_APPEND | how);
    std::string expected;
    for (int i = 0; i < 300; ++i) {
      const std::string line = "line " + std::to_string(i) + "\n";
      REQUIRE(write((i % 2 == 0 ? a : b).get(), line.data(), line.size()) ==
              static_cast<ssize_t>(line.size()));
      expected += line;
    }
    CHECK(difference(read_file(file), expected) == "");
  }
}

TEST_CASE("descriptors allow what they were opened for") {
  Mount mount;
  write_file(mount.path("f"), "abc");
  const daxfs::UniqueFd reader = open_file(mount.path("f"), O_RDONLY);
  const daxfs::UniqueFd writer = open_file(mount.path("f"), O_WRONLY);
  char byte = 'x';
  CHECK(error_of(write(reader.get(), &byte, 1)) == EBADF);
  CHECK(error_of(read(writer.get(), &byte, 1)) == EBADF);
  CHECK(error_of(ftruncate(reader.get(), 0)) == EINVAL);
  CHECK(error_of(pwrite(writer.get(), &byte, 1, -1)) == EINVAL);
  CHECK(read_at(reader.get(), 3, 1).empty());
  CHECK(read_at(reader.get(), 1'000'000'000, 1).empty());
  CHECK(fsync(writer.get()) == 0);
  CHECK(fdatasync(reader.get()) == 0);
  CHECK(syncfs(reader.get()) == 0);
}

TEST_CASE("statfs counts to the block and to the inode") {
  Mount mount({.size = "32M"});
  const struct statvfs empty = space_of(mount);
  CHECK(empty.f_bsize == 4096);
  CHECK(empty.f_frsize == 4096);
  CHECK(empty.f_namemax == 255);
  CHECK(empty.f_blocks * 4096 < (32u << 20));
  CHECK(empty.f_blocks * 4096 > (24u << 20));
  CHECK(empty.f_bfree == empty.f_bavail);
  CHECK(empty.f_bfree * 4096 == mount.free());
  write_file(mount.path("a"), "");  // the directory's first block
  const struct statvfs before = space_of(mount);
  CHECK(before.f_bfree == empty.f_bfree - 1);
  CHECK(before.f_ffree == empty.f_ffree - 1);
  CHECK(before.f_files == empty.f_files);
  write_file(mount.path("b"), pattern(1 << 20, 1));
  CHECK(space_of(mount).f_bfree == before.f_bfree - 256);
  CHECK(status_of(mount.path("b")).st_blocks == 2048);
  CHECK(status_of(mount.path("b")).st_blksize == 4096);
  REQUIRE(unlink(mount.path("b").c_str()) == 0);
  REQUIRE(unlink(mount.path("a").c_str()) == 0);
  CHECK(mount.space_becomes(empty.f_bfree * 4096, 0));
}

TEST_CASE("data written through every door reads the same everywhere") {
  Mount mount;
  const std::string data = pattern(3 * (1 << 20) + 1234, 5);
  write_file(mount.path("buffered"), data);
  {
    const daxfs::UniqueFd direct = open_file(mount.path("direct"), O_CREAT | O_WRONLY | O_DIRECT);
    write_at(direct.get(), 0, data);
  }
  {
    // Small odd pieces, out of order.
    const daxfs::UniqueFd fd = open_file(mount.path("pieces"), O_CREAT | O_WRONLY);
    for (const std::size_t parity : {1u, 0u}) {
      for (std::size_t at = parity * 7777; at < data.size(); at += 2 * 7777) {
        write_at(fd.get(), at, std::string_view(data).substr(at, 7777));
      }
    }
  }
  for (const char* name : {"buffered", "direct", "pieces"}) {
    INFO(name);
    CHECK(difference(read_file(mount.path(name)), data) == "");
    const daxfs::UniqueFd direct = open_file(mount.path(name), O_RDONLY | O_DIRECT);
    CHECK(difference(read_at(direct.get(), 0, data.size()), data) == "");
  }
  mount.remount();
  for (const char* name : {"buffered", "direct", "pieces"}) {
    CHECK(difference(read_file(mount.path(name)), data) == "");
  }
}

TEST_CASE("a tree is the same after remounts") {
  Mount mount;
  REQUIRE(mkdir(mount.path("d").c_str(), 0751) == 0);
  for (unsigned i = 0; i < 40; ++i) {
    write_file(mount.path("d/" + std::to_string(i)), pattern(i * 1000, i));
  }
  write_fragmented(mount.path("fragmented"), 300, 9);
  REQUIRE(truncate(mount.path("d/7").c_str(), 100'000'000'000) == 0);
  const Snapshot fragmented(mount.path("fragmented"));
  const struct stat directory = status_of(mount.path("d"));
  const std::uint64_t free = mount.free();
  for (int round = 0; round < 3; ++round) {
    mount.remount();
    CHECK(mount.free() == free);
    CHECK(Snapshot(mount.path("fragmented")) == fragmented);
    CHECK(status_of(mount.path("d")).st_mode == (S_IFDIR | 0751));
    CHECK(status_of(mount.path("d")).st_ino == directory.st_ino);
    for (unsigned i = 0; i < 40; ++i) {
      if (i == 7) continue;
      CHECK(difference(read_file(mount.path("d/" + std::to_string(i))), pattern(i * 1000, i)) ==
            "");
    }
    CHECK(data_parts(mount.path("d/7")) == Parts{{0, 8192}});
  }
}

TEST_CASE("a read-only mount changes nothing") {
  Mount mount;
  write_file(mount.path("f"), "abc");
  mount.remount("ro");
  CHECK(read_file(mount.path("f")) == "abc");
  CHECK(error_of(open(mount.path("f").c_str(), O_WRONLY)) == EROFS);
  CHECK(error_of(open(mount.path("g").c_str(), O_WRONLY | O_CREAT, 0644)) == EROFS);
  CHECK(error_of(unlink(mount.path("f").c_str())) == EROFS);
  CHECK(error_of(truncate(mount.path("f").c_str(), 0)) == EROFS);
  CHECK(error_of(chmod(mount.path("f").c_str(), 0)) == EROFS);
  CHECK(mount.status()["read_only"] == true);
  mount.remount();
  CHECK(read_file(mount.path("f")) == "abc");
}
