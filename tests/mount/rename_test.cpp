// rename(2) and renameat2(2): what moves, what is replaced, and every way to be refused.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Names : Mount {
  int move(const std::string& from, const std::string& to, unsigned flags = 0) {
    return error_of(renameat2(AT_FDCWD, path(from).c_str(), AT_FDCWD, path(to).c_str(), flags));
  }
  void directory(const std::string& name) { REQUIRE(mkdir(path(name).c_str(), 0755) == 0); }
  void file(const std::string& name) { write_file(path(name), name); }
  bool exists(const std::string& name) { return access(path(name).c_str(), F_OK) == 0; }
  std::string content(const std::string& name) { return read_file(path(name)); }
  nlink_t links(const std::string& name) { return status_of(path(name)).st_nlink; }
};

}  // namespace

TEST_CASE_METHOD(Names, "rename moves and replaces") {
  directory("d");
  directory("e");
  file("a");
  file("b");
  CHECK(move("a", "c") == 0);
  CHECK_FALSE(exists("a"));
  CHECK(content("c") == "a");
  CHECK(move("c", "d/c") == 0);
  CHECK(content("d/c") == "a");
  CHECK(move("b", "d/c") == 0);
  CHECK(content("d/c") == "b");
  CHECK_FALSE(exists("b"));

  CHECK(move("d", "e/d") == 0);
  CHECK(content("e/d/c") == "b");
  CHECK(links("e") == 3);
  CHECK(status_of(path("e/d/..")).st_ino == status_of(path("e")).st_ino);
  directory("empty");
  CHECK(move("e/d", "empty") == 0);
  CHECK(content("empty/c") == "b");
  CHECK(links("e") == 2);
  CHECK(status_of(path()).st_nlink == 4);
  remount();
  CHECK(content("empty/c") == "b");
}

TEST_CASE_METHOD(Names, "the replaced file lives on for who has it open") {
  file("old");
  file("new");
  const daxfs::UniqueFd fd = open_file(path("old"), O_RDONLY);
  CHECK(move("new", "old") == 0);
  CHECK(read_at(fd.get(), 0, 10) == "old");
  CHECK(content("old") == "new");
  struct stat status {};
  REQUIRE(fstat(fd.get(), &status) == 0);
  CHECK(status.st_nlink == 0);
}

TEST_CASE_METHOD(Names, "rename between two names of one file does nothing") {
  file("a");
  REQUIRE(link(path("a").c_str(), path("b").c_str()) == 0);
  CHECK(move("a", "b") == 0);
  CHECK(exists("a"));
  CHECK(exists("b"));
  CHECK(move("a", "a") == 0);
  CHECK(links("a") == 2);
}

TEST_CASE_METHOD(Names, "NOREPLACE replaces nothing, EXCHANGE swaps") {
  file("a");
  file("b");
  directory("d");
  file("d/x");
  CHECK(move("a", "b", RENAME_NOREPLACE) == EEXIST);
  CHECK(move("a", "d", RENAME_NOREPLACE) == EEXIST);
  CHECK(move("none", "b", RENAME_NOREPLACE) == ENOENT);
  CHECK(content("b") == "b");
  CHECK(move("a", "c", RENAME_NOREPLACE) == 0);
  CHECK(content("c") == "a");

  CHECK(move("c", "none", RENAME_EXCHANGE) == ENOENT);
  CHECK(move("none", "c", RENAME_EXCHANGE) == ENOENT);
  CHECK(move("b", "c", RENAME_EXCHANGE) == 0);
  CHECK(content("b") == "a");
  CHECK(content("c") == "b");
  CHECK(move("b", "d", RENAME_EXCHANGE) == 0);
  CHECK(content("d") == "a");
  CHECK(content("b/x") == "d/x");
  CHECK(move("b", "b/x", RENAME_EXCHANGE) == EINVAL);
  CHECK(move("b/x", "b", RENAME_EXCHANGE) == EINVAL);
  CHECK(move("d", "c", RENAME_NOREPLACE | RENAME_EXCHANGE) == EINVAL);
  CHECK(move("d", "c", RENAME_WHITEOUT | RENAME_EXCHANGE) == EINVAL);
  CHECK(move("d", "c", 1u << 7) == EINVAL);
  remount();
  CHECK(content("d") == "a");
  CHECK(content("c") == "b");
}

TEST_CASE_METHOD(Names, "EXCHANGE of directories in different places keeps the tree right") {
  directory("p");
  directory("q");
  directory("p/a");
  directory("q/b");
  directory("q/b/below");
  file("f");
  CHECK(move("p/a", "q/b", RENAME_EXCHANGE) == 0);
  CHECK(exists("p/a/below"));
  CHECK_FALSE(exists("q/b/below"));
  CHECK(status_of(path("p/a/..")).st_ino == status_of(path("p")).st_ino);
  CHECK(move("f", "p/a", RENAME_EXCHANGE) == 0);
  CHECK(exists("f/below"));
  CHECK(links("p") == 2);
  CHECK(status_of(path()).st_nlink == 5);
}

TEST_CASE_METHOD(Names, "rename refuses what makes no sense, and changes nothing") {
  directory("d");
  directory("d/sub");
  directory("d/sub/deep");
  directory("empty");
  file("f");
  file("d/g");
  CHECK(move("none", "x") == ENOENT);
  CHECK(move("f", "none/x") == ENOENT);
  CHECK(move("f", "f/x") == ENOTDIR);
  CHECK(move("f", "d") == EISDIR);
  CHECK(move("d", "f") == ENOTDIR);
  CHECK(move("empty", "d") == ENOTEMPTY);
  CHECK(move("d", "d/sub/x") == EINVAL);
  CHECK(move("d", "d/sub/deep") == EINVAL);
  CHECK(move("d/sub/deep", "d") == ENOTEMPTY);
  CHECK(move("f", std::string(256, 'n')) == ENAMETOOLONG);
  CHECK(move(std::string(256, 'n'), "f") == ENAMETOOLONG);
  CHECK(move("d/.", "x") == EBUSY);
  CHECK(move("f", "d/..") == EBUSY);
  CHECK(error_of(rename(path("f").c_str(), beside("outside").c_str())) == EXDEV);
  CHECK(content("f") == "f");
  CHECK(content("d/g") == "d/g");
  CHECK(exists("d/sub/deep"));
  CHECK(exists("empty"));
}

TEST_CASE_METHOD(Names, "a sticky directory keeps strangers from renaming and removing") {
  directory("tmp");
  REQUIRE(chmod(path("tmp").c_str(), 01777) == 0);
  file("tmp/roots");
  const std::string from = path("tmp/roots");
  const std::string to = path("tmp/mine");
  CHECK(in_child([&] { return error_of(rename(from.c_str(), to.c_str())); }, 4242) == EPERM);
  CHECK(in_child([&] { return error_of(unlink(from.c_str())); }, 4242) == EPERM);
  REQUIRE(chown(from.c_str(), 4242, 4242) == 0);
  CHECK(in_child([&] { return error_of(rename(from.c_str(), to.c_str())); }, 4242) == 0);
}
