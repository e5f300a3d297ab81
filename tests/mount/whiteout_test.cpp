// RENAME_WHITEOUT: a name moves away, and a character device 0/0 takes its place in the same
// transaction.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/names_in.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Whiteouts : Mount {
  using Mount::Mount;
  int move(const std::string& from, const std::string& to, unsigned flags = RENAME_WHITEOUT) {
    return error_of(renameat2(AT_FDCWD, path(from).c_str(), AT_FDCWD, path(to).c_str(), flags));
  }
  void file(const std::string& name) { write_file(path(name), name); }
  bool is_whiteout(const std::string& name) const {
    struct stat status {};
    return lstat(path(name).c_str(), &status) == 0 && S_ISCHR(status.st_mode) &&
           status.st_rdev == makedev(0, 0) && (status.st_mode & 07777) == 0;
  }
};

unsigned char listed_type(const std::string& directory, const std::string& name) {
  DIR* const open = opendir(directory.c_str());
  unsigned char type = DT_UNKNOWN;
  while (const dirent* entry = readdir(open)) {
    if (entry->d_name == name) type = entry->d_type;
  }
  closedir(open);
  return type;
}

}  // namespace

TEST_CASE_METHOD(Whiteouts, "a whiteout takes the place of what moves") {
  file("a");
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  REQUIRE(mkdir(path("e").c_str(), 0755) == 0);
  file("e/f");
  CHECK(move("a", "d/b") == 0);
  CHECK(read_file(path("d/b")) == "a");
  CHECK(is_whiteout("a"));
  CHECK(listed_type(path(), "a") == DT_CHR);
  CHECK(status_of(path("a")).st_nlink == 1);
  // A directory, to another one: ".." and link counts go along.
  CHECK(move("e", "d/e") == 0);
  CHECK(is_whiteout("e"));
  CHECK(read_file(path("d/e/f")) == "e/f");
  CHECK(status_of(path("d")).st_nlink == 3);
  CHECK(status_of(path()).st_nlink == 3);
  // Within one directory, and by a name that is longer than the whiteout's entry.
  CHECK(move("d/b", "d/" + std::string(250, 'x')) == 0);
  CHECK(is_whiteout("d/b"));
  remount();
  CHECK(is_whiteout("a"));
  CHECK(is_whiteout("e"));
  CHECK(is_whiteout("d/b"));
  REQUIRE(unlink(path("a").c_str()) == 0);
  REQUIRE(unlink(path("e").c_str()) == 0);
  unmount();
  check_pool();
}

TEST_CASE_METHOD(Whiteouts, "a whiteout beside what is replaced, and where nothing may be") {
  file("a");
  file("b");
  CHECK(move("a", "b", RENAME_WHITEOUT | RENAME_NOREPLACE) == EEXIST);
  CHECK(move("a", "b", RENAME_WHITEOUT | RENAME_EXCHANGE) == EINVAL);
  CHECK(move("a", "b", RENAME_WHITEOUT | 8) == EINVAL);
  CHECK(move("none", "b") == ENOENT);
  CHECK(read_file(path("a")) == "a");
  CHECK(read_file(path("b")) == "b");
  CHECK(move("a", "b") == 0);
  CHECK(is_whiteout("a"));
  CHECK(read_file(path("b")) == "a");
  // Over a whiteout, and over a directory that is not empty.
  CHECK(move("b", "a") == 0);
  CHECK(is_whiteout("b"));
  CHECK(read_file(path("a")) == "a");
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  REQUIRE(mkdir(path("full").c_str(), 0755) == 0);
  file("full/f");
  CHECK(move("d", "full") == ENOTEMPTY);
  CHECK(move("a", "full") == EISDIR);
  CHECK(move("d", "b") == ENOTDIR);
  // Two names of one file: nothing to do.
  REQUIRE(link(path("a").c_str(), path("c").c_str()) == 0);
  CHECK(move("a", "c") == 0);
  CHECK(read_file(path("a")) == "a");
  CHECK(status_of(path("a")).st_nlink == 2);
  CHECK(move("c", "new", RENAME_WHITEOUT | RENAME_NOREPLACE) == 0);
  CHECK(is_whiteout("c"));
}

TEST_CASE_METHOD(Whiteouts, "a rename with whiteout asks the gate as any other") {
  file("new");
  const daxfs::UniqueFd fd = open_file(path("old"), O_RDWR | O_CREAT);
  write_at(fd.get(), 0, pattern(4 * kBlock, 1));
  Held held(path("old"), 0, kBlock, End::close);
  CHECK(move("new", "old") == ETXTBSY);
  CHECK(read_file(path("new")) == "new");
  held.check();
  held.end();
  // The kernel tells of a close a little later.
  CHECK(eventually([&] { return ctl("pins").empty(); }));
  CHECK(move("new", "old") == 0);
  CHECK(is_whiteout("new"));
}

TEST_CASE("a whiteout for which there is no room: nothing has moved", "[space]") {
  Whiteouts mount({.size = "8M"});
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  mount.file("a");
  const daxfs::UniqueFd big = open_file(mount.path("big"), O_RDWR | O_CREAT);
  allocate_all_free(big.get());
  CHECK(mount.move("a", "d/b") == ENOSPC);
  CHECK(read_file(mount.path("a")) == "a");
  CHECK(names_in(mount.path("d")).empty());
  REQUIRE(ftruncate(big.get(), 0) == 0);
  CHECK(mount.move("a", "d/b") == 0);
  CHECK(mount.is_whiteout("a"));
}
