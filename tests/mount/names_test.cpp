// Names: making, linking and removing files, directories, symbolic links and nodes.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

TEST_CASE("names may have 255 bytes, and any but slash and NUL") {
  Mount mount;
  const std::string longest(255, 'n');
  write_file(mount.path(longest), "long");
  CHECK(read_file(mount.path(longest)) == "long");
  CHECK(error_of(open(mount.path(longest + "n").c_str(), O_CREAT | O_WRONLY, 0644)) ==
        ENAMETOOLONG);
  CHECK(error_of(mkdir(mount.path(longest + "n").c_str(), 0755)) == ENAMETOOLONG);
  CHECK(error_of(access(mount.path(longest + "n").c_str(), F_OK)) == ENAMETOOLONG);
  for (const char* odd : {"\xff\xfe", " ", "new\nline", "ümlaut", "...", "-rf", "back\\slash"}) {
    write_file(mount.path(odd), odd);
    CHECK(read_file(mount.path(odd)) == odd);
  }
  mount.remount();
  CHECK(read_file(mount.path(longest)) == "long");
  CHECK(read_file(mount.path("new\nline")) == "new\nline");
}

TEST_CASE("files and directories are made and removed") {
  Mount mount;
  const std::string dir = mount.path("d");
  REQUIRE(mkdir(dir.c_str(), 0755) == 0);
  CHECK(error_of(mkdir(dir.c_str(), 0755)) == EEXIST);
  CHECK(error_of(mkdir((dir + "/x/y").c_str(), 0755)) == ENOENT);
  CHECK(status_of(mount.path()).st_nlink == 3);
  CHECK(status_of(dir).st_nlink == 2);

  write_file(dir + "/f", "x");
  CHECK(error_of(open((dir + "/f").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644)) == EEXIST);
  CHECK(error_of(open((dir + "/none").c_str(), O_WRONLY)) == ENOENT);
  CHECK(error_of(open((dir + "/f/below").c_str(), O_CREAT | O_WRONLY, 0644)) == ENOTDIR);
  CHECK(error_of(open(dir.c_str(), O_WRONLY)) == EISDIR);
  CHECK(error_of(rmdir(dir.c_str())) == ENOTEMPTY);
  CHECK(error_of(rmdir((dir + "/f").c_str())) == ENOTDIR);
  CHECK(error_of(unlink(dir.c_str())) == EISDIR);
  CHECK(error_of(unlink((dir + "/none").c_str())) == ENOENT);
  CHECK(error_of(rmdir((dir + "/none").c_str())) == ENOENT);
  CHECK(error_of(rmdir((dir + "/.").c_str())) == EINVAL);
  CHECK(unlink((dir + "/f").c_str()) == 0);
  CHECK(rmdir(dir.c_str()) == 0);
  CHECK(error_of(access(dir.c_str(), F_OK)) == ENOENT);
  CHECK(status_of(mount.path()).st_nlink == 2);
}

TEST_CASE("a removed directory that is somebody's working directory takes no files") {
  Mount mount;
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  const daxfs::UniqueFd directory = open_file(mount.path("d"), O_RDONLY | O_DIRECTORY);
  REQUIRE(rmdir(mount.path("d").c_str()) == 0);
  CHECK(error_of(openat(directory.get(), "f", O_CREAT | O_WRONLY, 0644)) == ENOENT);
  CHECK(error_of(mkdirat(directory.get(), "f", 0755)) == ENOENT);
  struct stat status {};
  REQUIRE(fstat(directory.get(), &status) == 0);
  CHECK(status.st_nlink == 0);
}

TEST_CASE("hard links are names of one file") {
  Mount mount;
  const std::string first = mount.path("first");
  const std::string second = mount.path("second");
  write_file(first, "shared");
  REQUIRE(link(first.c_str(), second.c_str()) == 0);
  CHECK(status_of(first).st_nlink == 2);
  CHECK(status_of(first).st_ino == status_of(second).st_ino);
  write_file(second, "changed");
  CHECK(read_file(first) == "changed");
  CHECK(error_of(link(first.c_str(), second.c_str())) == EEXIST);
  CHECK(error_of(link(mount.path().c_str(), mount.path("root").c_str())) == EPERM);
  CHECK(error_of(link(mount.path("none").c_str(), mount.path("x").c_str())) == ENOENT);
  CHECK(error_of(link(first.c_str(), mount.beside("outside").c_str())) == EXDEV);
  CHECK(unlink(first.c_str()) == 0);
  CHECK(status_of(second).st_nlink == 1);
  mount.remount();
  CHECK(read_file(second) == "changed");
}

TEST_CASE("symbolic links say what they were given") {
  Mount mount;
  const auto target_of = [&](const std::string& name) {
    std::string text(5000, '\0');
    const ssize_t got = readlink(mount.path(name).c_str(), text.data(), text.size());
    REQUIRE(got >= 0);
    text.resize(static_cast<std::size_t>(got));
    return text;
  };
  const std::string longest(4095, 't');
  REQUIRE(symlink("f", mount.path("s").c_str()) == 0);
  REQUIRE(symlink(longest.c_str(), mount.path("long").c_str()) == 0);
  REQUIRE(symlink("s", mount.path("s2").c_str()) == 0);
  REQUIRE(symlink("loop", mount.path("loop").c_str()) == 0);
  CHECK(error_of(symlink("f", mount.path("s").c_str())) == EEXIST);
  CHECK(error_of(symlink("", mount.path("empty").c_str())) == ENOENT);
  CHECK(error_of(access(mount.path("s").c_str(), F_OK)) == ENOENT);
  write_file(mount.path("f"), "seen through links");
  CHECK(read_file(mount.path("s2")) == "seen through links");
  CHECK(error_of(open(mount.path("loop").c_str(), O_RDONLY)) == ELOOP);
  CHECK(error_of(open(mount.path("s").c_str(), O_RDONLY | O_NOFOLLOW)) == ELOOP);
  char buffer[8];
  CHECK(error_of(readlink(mount.path("f").c_str(), buffer, sizeof buffer)) == EINVAL);
  CHECK(status_of(mount.path("s")).st_size == 1);
  CHECK(S_ISLNK(status_of(mount.path("s")).st_mode));
  mount.remount();
  CHECK(target_of("long") == longest);
  CHECK(target_of("s") == "f");
}

TEST_CASE("fifos, sockets and device nodes keep what they are") {
  Mount mount;
  REQUIRE(mkfifo(mount.path("fifo").c_str(), 0600) == 0);
  REQUIRE(mknod(mount.path("char").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0);
  REQUIRE(mknod(mount.path("block").c_str(), S_IFBLK | 0600, makedev(259, 70000)) == 0);
  REQUIRE(mknod(mount.path("file").c_str(), S_IFREG | 0640, 0) == 0);
  CHECK(error_of(mkfifo(mount.path("fifo").c_str(), 0600)) == EEXIST);

  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  mount.path("socket").copy(address.sun_path, sizeof address.sun_path - 1);
  CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  close(listener);

  // Root's mount serves device nodes, like a disk.
  const daxfs::UniqueFd null = open_file(mount.path("char"), O_WRONLY);
  CHECK(write(null.get(), "gone", 4) == 4);

  const daxfs::UniqueFd reader = open_file(mount.path("fifo"), O_RDONLY | O_NONBLOCK);
  const daxfs::UniqueFd writer = open_file(mount.path("fifo"), O_WRONLY | O_NONBLOCK);
  CHECK(write(writer.get(), "abc", 3) == 3);
  char text[4] = {};
  CHECK(read(reader.get(), text, sizeof text) == 3);
  CHECK(std::string(text) == "abc");
}

TEST_CASE("what nodes are outlives a remount") {
  Mount mount;
  REQUIRE(mknod(mount.path("block").c_str(), S_IFBLK | 0600, makedev(259, 70000)) == 0);
  REQUIRE(mkfifo(mount.path("fifo").c_str(), 0604) == 0);
  mount.remount();
  CHECK(status_of(mount.path("block")).st_rdev == makedev(259, 70000));
  CHECK(S_ISBLK(status_of(mount.path("block")).st_mode));
  CHECK(status_of(mount.path("fifo")).st_mode == (S_IFIFO | 0604));
}
