// O_TMPFILE: a file without a name, which may get one later, or is gone.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/names_in.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Unnamed : Mount {
  using Mount::Mount;
  daxfs::UniqueFd make(int flags = O_RDWR, mode_t mode = 0640, const std::string& in = "") {
    return open_file(path(in), O_TMPFILE | flags, mode);
  }
  int name(const daxfs::UniqueFd& fd, const std::string& name) {
    return error_of(linkat(fd.get(), "", AT_FDCWD, path(name).c_str(), AT_EMPTY_PATH));
  }
  static struct stat stat_of(const daxfs::UniqueFd& fd) {
    struct stat out {};
    REQUIRE(fstat(fd.get(), &out) == 0);
    return out;
  }
};

constexpr std::size_t kSize = 3 * kBlock + 7;

}  // namespace

TEST_CASE_METHOD(Unnamed, "an unnamed file is in no directory, and gone at its last close") {
  const std::uint64_t before = free();
  {
    const daxfs::UniqueFd fd = make();
    const struct stat made = stat_of(fd);
    CHECK(made.st_nlink == 0);
    CHECK((made.st_mode & 07777) == 0640);
    CHECK(S_ISREG(made.st_mode));
    write_at(fd.get(), 0, pattern(kSize, 1));
    CHECK(read_at(fd.get(), 0, kSize) == pattern(kSize, 1));
    CHECK(ctl("status")["free"] == before - 4 * kBlock);
    CHECK(names_in(path()).empty());
  }
  CHECK(space_becomes(before, 0));
  CHECK(error_of(open(path("none").c_str(), O_TMPFILE | O_RDWR, 0600)) == ENOENT);
  CHECK(error_of(open(path(".daxfs").c_str(), O_TMPFILE | O_RDWR, 0600)) == EPERM);
  write_file(path("file"), "x");
  CHECK(error_of(open(path("file").c_str(), O_TMPFILE | O_RDWR, 0600)) == ENOTDIR);
  CHECK(error_of(open(path().c_str(), O_TMPFILE | O_RDONLY, 0600)) == EINVAL);
}

TEST_CASE_METHOD(Unnamed, "an unnamed file gets its first name, and more") {
  const daxfs::UniqueFd fd = make(O_RDWR | O_DIRECT);
  const std::string data = pattern(kBlock, 2);
  AlignedBuffer buffer(kBlock);
  data.copy(buffer.data(), kBlock);
  REQUIRE(pwrite(fd.get(), buffer.data(), kBlock, 0) == kBlock);
  CHECK(name(fd, "a") == 0);
  CHECK(stat_of(fd).st_nlink == 1);
  CHECK(read_file(path("a")) == data);
  // By way of /proc, as one without CAP_DAC_READ_SEARCH has to.
  const std::string proc = "/proc/self/fd/" + std::to_string(fd.get());
  CHECK(linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, path("b").c_str(), AT_SYMLINK_FOLLOW) == 0);
  CHECK(status_of(path("b")).st_nlink == 2);
  CHECK(name(fd, "a") == EEXIST);
  REQUIRE(unlink(path("a").c_str()) == 0);
  REQUIRE(unlink(path("b").c_str()) == 0);
  // It has lost its names: it is a file like any other.
  CHECK(name(fd, "c") == ENOENT);
  CHECK(read_at(fd.get(), 0, kBlock) == data);
}

TEST_CASE_METHOD(Unnamed, "an unnamed file that was opened with O_EXCL stays without a name") {
  const daxfs::UniqueFd fd = make(O_RDWR | O_EXCL);
  CHECK(name(fd, "a") == ENOENT);
  CHECK(access(path("a").c_str(), F_OK) != 0);
}

TEST_CASE_METHOD(Unnamed, "an unnamed file belongs to who made it, and inherits as a named one") {
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  REQUIRE(chown(path("d").c_str(), 0, 77) == 0);
  REQUIRE(chmod(path("d").c_str(), 02777) == 0);
  const std::string directory = path("d");
  const int code = in_child(
      [&] {
        umask(027);
        const daxfs::UniqueFd fd(open(directory.c_str(), O_TMPFILE | O_RDWR, 0666));
        struct stat made {};
        if (fd.get() < 0 || fstat(fd.get(), &made) != 0) return 1;
        if (made.st_uid != 1234 || made.st_gid != 77) return 2;
        return (made.st_mode & 07777) == 0640 ? 0 : 3;
      },
      1234);
  CHECK(code == 0);
  REQUIRE(chmod(path("d").c_str(), 0755) == 0);
  const int refused =
      in_child([&] { return error_of(open(directory.c_str(), O_TMPFILE | O_RDWR, 0666)); }, 1234);
  CHECK(refused == EACCES);
}

TEST_CASE_METHOD(Unnamed, "unnamed files do not outlive a daemon; what was named does") {
  const std::uint64_t before = free();
  {
    const daxfs::UniqueFd gone = make();
    const daxfs::UniqueFd kept = make();
    write_at(gone.get(), 0, pattern(kSize, 3));
    write_at(kept.get(), 0, pattern(kSize, 4));
    REQUIRE(name(kept, "kept") == 0);
    REQUIRE(fsync(kept.get()) == 0);
    kill_daemon();
  }
  mount();
  CHECK(read_file(path("kept")) == pattern(kSize, 4));
  CHECK(status_of(path("kept")).st_nlink == 1);
  REQUIRE(unlink(path("kept").c_str()) == 0);
  CHECK(space_becomes(before, 0));
  unmount();
  check_pool();
}

TEST_CASE_METHOD(Unnamed, "no unnamed file on a read-only mount, or in a directory that is gone") {
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  const daxfs::UniqueFd directory = open_file(path("d"), O_RDONLY | O_DIRECTORY);
  REQUIRE(rmdir(path("d").c_str()) == 0);
  CHECK(error_of(openat(directory.get(), ".", O_TMPFILE | O_RDWR, 0600)) == ENOENT);
  const daxfs::UniqueFd fd = make();
  CHECK(error_of(linkat(fd.get(), "", directory.get(), "x", AT_EMPTY_PATH)) == ENOENT);
  CHECK(name(fd, "x") == 0);
}

TEST_CASE("an unnamed file on a full pool: named as soon as there is room", "[space]") {
  Unnamed mount({.size = "8M"});
  const daxfs::UniqueFd fd = mount.make();
  write_at(fd.get(), 0, pattern(kSize, 5));
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  const daxfs::UniqueFd big = open_file(mount.path("big"), O_RDWR | O_CREAT);
  allocate_all_free(big.get());
  // Its first name needs a block for the directory.
  CHECK(mount.name(fd, "d/named") == ENOSPC);
  CHECK(Unnamed::stat_of(fd).st_nlink == 0);
  CHECK(names_in(mount.path("d")).empty());
  CHECK(read_at(fd.get(), 0, kSize) == pattern(kSize, 5));
  // Another one needs none: it is made, and cannot grow.
  const daxfs::UniqueFd other = mount.make();
  CHECK(error_of(pwrite(other.get(), "x", 1, 0)) == ENOSPC);
  REQUIRE(ftruncate(big.get(), 0) == 0);
  CHECK(mount.name(fd, "d/named") == 0);
  CHECK(read_file(mount.path("d/named")) == pattern(kSize, 5));
}
