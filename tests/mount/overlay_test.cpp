// overlayfs with daxfs as its lower, upper and work directories: what containers do.
#include <dirent.h>
#include <fcntl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/names_in.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

bool kernel_has_overlay() {
  std::ifstream list("/proc/filesystems");
  for (std::string word; list >> word;) {
    if (word == "overlay") return true;
  }
  return false;
}

// What the kernel's log says of overlayfs: of features that the upper layer lacks.
std::vector<std::string> complaints() {
  constexpr int kSize = 10, kReadAll = 3;
  std::string text(static_cast<std::size_t>(klogctl(kSize, nullptr, 0)), '\0');
  const int got = klogctl(kReadAll, text.data(), static_cast<int>(text.size()));
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    if (contains(line, "overlayfs:")) out.push_back(line);
    at = end + 1;
  }
  return out;
}

// A lower directory with a small tree, and an overlay over it.
struct Overlay : Mount {
  Overlay() {
    for (const char* name : {"lower", "upper", "work", "lower/d", "lower/d/sub", "lower/full"}) {
      REQUIRE(mkdir(path(name).c_str(), 0755) == 0);
    }
    write_file(path("lower/f"), "lower f");
    REQUIRE(link(path("lower/f").c_str(), path("lower/f2").c_str()) == 0);
    write_file(path("lower/d/g"), "lower g");
    write_file(path("lower/full/h"), "lower h");
    write_file(path("lower/big"), pattern(kBig, 1));
    REQUIRE(mkdir(beside("over").c_str(), 0755) == 0);
    cover();
  }
  ~Overlay() { umount2(beside("over").c_str(), MNT_DETACH); }

  void cover() {
    const std::string options = "lowerdir=" + path("lower") + ",upperdir=" + path("upper") +
                                ",workdir=" + path("work") + ",redirect_dir=on,index=off";
    if (geteuid() != 0 || !kernel_has_overlay()) skip_here("no overlayfs here");
    // It complains while it mounts. Somebody else's may do so just then: once without is enough.
    bool silent = false;
    for (int tries = 0; tries < 3 && !silent; ++tries) {
      if (tries > 0) uncover();
      const auto before = complaints();
      REQUIRE(::mount("overlay", beside("over").c_str(), "overlay", 0, options.c_str()) == 0);
      silent = complaints() == before;
    }
    CHECK(silent);
  }
  void uncover() { REQUIRE(umount(beside("over").c_str()) == 0); }

  std::string over(const std::string& name = "") const { return beside("over") + "/" + name; }
  std::string upper(const std::string& name) const { return path("upper/" + name); }
  std::string listing(const std::string& name) const { return names_in(over(name)); }
  bool is_whiteout(const std::string& name) const {
    struct stat status {};
    return lstat(upper(name).c_str(), &status) == 0 && S_ISCHR(status.st_mode) &&
           status.st_rdev == makedev(0, 0);
  }
  bool is_opaque(const std::string& name) const {
    char value[2] = {};
    return getxattr(upper(name).c_str(), "trusted.overlay.opaque", value, sizeof value) == 1 &&
           value[0] == 'y';
  }

  static constexpr std::size_t kBig = 5'000'000;
};

}  // namespace

TEST_CASE_METHOD(Overlay, "overlayfs takes daxfs as its upper layer, and has nothing to say") {
  // What is removed stays removed.
  REQUIRE(unlink(over("f").c_str()) == 0);
  CHECK(is_whiteout("f"));
  CHECK(std::filesystem::remove_all(over("full")) == 2);
  CHECK(is_whiteout("full"));
  CHECK(listing("") == "big d f2");

  // A directory in place of one that is gone hides what was there.
  REQUIRE(mkdir(over("full").c_str(), 0755) == 0);
  CHECK(is_opaque("full"));
  CHECK(listing("full").empty());

  // Moved: files, directories of the lower layer, directories of the upper one.
  REQUIRE(rename(over("d").c_str(), over("e").c_str()) == 0);
  CHECK(is_whiteout("d"));
  CHECK(read_file(over("e/g")) == "lower g");
  CHECK(listing("e") == "g sub");
  REQUIRE(rename(over("full").c_str(), over("e/full").c_str()) == 0);
  REQUIRE(rename(over("f2").c_str(), over("e/g").c_str()) == 0);
  CHECK(is_whiteout("f2"));
  CHECK(read_file(over("e/g")) == "lower f");

  uncover();
  remount();
  cover();
  CHECK(listing("") == "big e");
  CHECK(listing("e") == "full g sub");
  CHECK(read_file(path("lower/f")) == "lower f");
}

TEST_CASE_METHOD(Overlay, "overlayfs copies up: contents, modes, hard links, unnamed files") {
  // A change of the mode alone takes the contents along.
  REQUIRE(chmod(over("big").c_str(), 0604) == 0);
  CHECK((status_of(over("big")).st_mode & 07777) == 0604);
  CHECK((status_of(path("lower/big")).st_mode & 07777) == 0644);
  CHECK(difference(read_file(over("big")), pattern(kBig, 1)) == "");
  write_at(open_file(over("big"), O_WRONLY).get(), 4096, "changed");
  CHECK(read_file(path("lower/big")) == pattern(kBig, 1));
  CHECK(read_file(upper("big")).substr(4096, 7) == "changed");

  REQUIRE(link(over("f").c_str(), over("d/linked").c_str()) == 0);
  CHECK(status_of(over("f")).st_ino == status_of(over("d/linked")).st_ino);
  write_at(open_file(over("f"), O_WRONLY).get(), 0, "UPPER");
  CHECK(read_file(over("d/linked")) == "UPPER f");

  REQUIRE(setxattr(over("d").c_str(), "user.note", "here", 4, 0) == 0);
  char value[8] = {};
  CHECK(getxattr(upper("d").c_str(), "user.note", value, sizeof value) == 4);

  // Since Linux 6.3 overlayfs hands O_TMPFILE on.
  if (const daxfs::UniqueFd fd(open(over().c_str(), O_TMPFILE | O_RDWR, 0600)); fd.get() >= 0) {
    write_at(fd.get(), 0, "unnamed");
    CHECK(linkat(fd.get(), "", AT_FDCWD, over("named").c_str(), AT_EMPTY_PATH) == 0);
    CHECK(read_file(over("named")) == "unnamed");
  }
  uncover();
  unmount();
  check_pool();
}
