// File handles (name_to_handle_at, NFS): they outlive what the kernel remembers, and open their own
// file or nothing.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

class Handle {
 public:
  explicit Handle(const std::string& path) {
    head().handle_bytes = MAX_HANDLE_SZ;
    int mount_id = 0;
    REQUIRE(error_of(name_to_handle_at(AT_FDCWD, path.c_str(), &head(), &mount_id, 0)) == 0);
  }
  // A descriptor, or -errno.
  int open(const std::string& mount, int flags = O_RDONLY) {
    const daxfs::UniqueFd root = open_file(mount, O_RDONLY | O_DIRECTORY);
    const int fd = open_by_handle_at(root.get(), &head(), flags);
    return fd < 0 ? -errno : fd;
  }
  std::string read(const std::string& mount) {
    const daxfs::UniqueFd fd(open(mount));
    return fd.get() < 0 ? strerror(-fd.get()) : read_at(fd.get(), 0, 100);
  }

 private:
  file_handle& head() { return *reinterpret_cast<file_handle*>(space_.data()); }
  alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> space_{};
};

void need_handles() {
  need_mounts();
  if (geteuid() != 0) skip_here("opening a file by its handle takes CAP_DAC_READ_SEARCH");
}

// The kernel forgets what nobody has open. Not for sure with one call: others may hold on to a page
// or a name for a moment.
void forget_inodes() { std::ofstream("/proc/sys/vm/drop_caches") << "2"; }

struct Handles : Mount {
  Handles() {
    need_handles();
    REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
    write_file(path("d/f"), "mine");
  }
};

}  // namespace

TEST_CASE_METHOD(Handles, "handles open 2000 files that the kernel has forgotten") {
  constexpr unsigned kFiles = 2000;
  std::vector<Handle> handles;
  for (unsigned i = 0; i < kFiles; ++i) {
    const std::string name = path("d/" + std::to_string(i));
    write_file(name, std::to_string(i));
    handles.emplace_back(name);
  }
  Handle directory(path("d"));
  forget_inodes();
  for (unsigned i = 0; i < kFiles; ++i) {
    INFO(i);
    REQUIRE(handles[i].read(path()) == std::to_string(i));
  }
  forget_inodes();
  // To a directory belongs its way up to the root, and that stays the root.
  const daxfs::UniqueFd found(directory.open(path(), O_RDONLY | O_DIRECTORY));
  REQUIRE(found.get() >= 0);
  const daxfs::UniqueFd above(openat(found.get(), "..", O_RDONLY | O_DIRECTORY));
  REQUIRE(above.get() >= 0);
  struct stat up {};
  REQUIRE(fstat(above.get(), &up) == 0);
  CHECK(up.st_ino == 1);
  CHECK(read_file(path("d/7")) == "7");
}

TEST_CASE_METHOD(Handles, "a handle outlives the mount, and the daemon's death") {
  Handle file(path("d/f"));
  Handle directory(path("d"));
  Handle root(path());
  remount();
  CHECK(file.read(path()) == "mine");
  kill_daemon();
  mount();
  CHECK(file.read(path()) == "mine");
  kill_daemon();
  mount();
  const daxfs::UniqueFd found(directory.open(path(), O_RDONLY | O_DIRECTORY));
  REQUIRE(found.get() >= 0);
  const daxfs::UniqueFd inside(openat(found.get(), "f", O_RDWR));
  CHECK(read_at(inside.get(), 0, 4) == "mine");
  CHECK(daxfs::UniqueFd(root.open(path(), O_RDONLY | O_DIRECTORY)).get() >= 0);
}

TEST_CASE_METHOD(Handles,
                 "a handle of what is gone is ESTALE, also when its number is used again") {
  Handle file(path("d/f"));
  const auto number = status_of(path("d/f")).st_ino;
  REQUIRE(unlink(path("d/f").c_str()) == 0);
  forget_inodes();
  CHECK(file.open(path()) == -ESTALE);
  // The number is free once the daemon has heard that the kernel has forgotten it.
  CHECK(eventually([&] {
    write_file(path("d/g"), "another's");
    if (status_of(path("d/g")).st_ino == number) return true;
    REQUIRE(unlink(path("d/g").c_str()) == 0);
    forget_inodes();
    return false;
  }));
  CHECK(file.open(path()) == -ESTALE);
  forget_inodes();
  CHECK(file.open(path()) == -ESTALE);
  remount();
  CHECK(file.open(path()) == -ESTALE);
  CHECK(Handle(path("d/g")).read(path()) == "another's");
}

TEST_CASE_METHOD(Handles, "a handle of another pool, or of one that was made anew, is ESTALE") {
  Handle file(path("d/f"));
  Handle directory(path("d"));
  {
    Mount other;
    REQUIRE(mkdir(other.path("d").c_str(), 0755) == 0);
    write_file(other.path("d/f"), "another's");
    REQUIRE(status_of(other.path("d/f")).st_ino == status_of(path("d/f")).st_ino);
    CHECK(file.open(other.path()) == -ESTALE);
    CHECK(directory.open(other.path(), O_RDONLY | O_DIRECTORY) == -ESTALE);
  }
  unmount();
  REQUIRE(run({tool("mkfs.daxfs"), "--force", pool()}).code == 0);
  mount();
  CHECK(file.open(path()) == -ESTALE);
  REQUIRE(mkdir(path("d").c_str(), 0755) == 0);
  write_file(path("d/f"), "new");
  CHECK(file.open(path()) == -ESTALE);
  forget_inodes();
  CHECK(file.open(path()) == -ESTALE);
}
