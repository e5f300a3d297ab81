// When a file was made: statx(2) tells, from Linux 6.6 on.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>
#include <tuple>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

using Time = std::tuple<std::int64_t, std::uint32_t>;

std::optional<Time> birth(const std::string& path) {
  struct statx status {};
  REQUIRE(statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BTIME, &status) == 0);
  if ((status.stx_mask & STATX_BTIME) == 0) return std::nullopt;
  return Time(status.stx_btime.tv_sec, status.stx_btime.tv_nsec);
}

bool kernel_asks() {
  utsname name{};
  unsigned major = 0, minor = 0;
  uname(&name);
  return std::sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 6));
}

}  // namespace

TEST_CASE_METHOD(Mount, "a file keeps the time of its birth") {
  if (!kernel_asks()) skip_here("this kernel asks no FUSE filesystem for it");
  write_file(path("a"), "a");
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  struct stat made = status_of(path("a"));
  const auto born = birth(path("a"));
  REQUIRE(born);
  CHECK(std::get<0>(*born) <= made.st_ctim.tv_sec);
  CHECK(std::get<0>(*born) > made.st_ctim.tv_sec - 60);
  CHECK(birth(path("d")));
  CHECK(birth(path()));
  next_tick();
  // Nothing moves it.
  write_file(path("a"), "longer than before");
  const timespec old[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  REQUIRE(utimensat(AT_FDCWD, path("a").c_str(), old, 0) == 0);
  REQUIRE(chmod(path("a").c_str(), 0600) == 0);
  REQUIRE(rename(path("a").c_str(), path("d/b").c_str()) == 0);
  REQUIRE(link(path("d/b").c_str(), path("c").c_str()) == 0);
  CHECK(birth(path("d/b")) == born);
  remount();
  CHECK(birth(path("c")) == born);
  // A new file of the old name is a new one.
  REQUIRE(unlink(path("c").c_str()) == 0);
  write_file(path("c"), "new");
  CHECK(birth(path("c")) > born);
  // The rest of what statx says is what stat says.
  struct statx status {};
  REQUIRE(statx(AT_FDCWD, path("d/b").c_str(), 0, STATX_BASIC_STATS | STATX_BTIME, &status) == 0);
  made = status_of(path("d/b"));
  CHECK(status.stx_ino == made.st_ino);
  CHECK(status.stx_size == static_cast<std::uint64_t>(made.st_size));
  CHECK(status.stx_mode == made.st_mode);
  CHECK(status.stx_nlink == made.st_nlink);
  CHECK(status.stx_blocks == static_cast<std::uint64_t>(made.st_blocks));
  CHECK(status.stx_mtime.tv_sec == 1);
  // Reports have none.
  CHECK_FALSE(birth(path(".daxfs/status")));
}
