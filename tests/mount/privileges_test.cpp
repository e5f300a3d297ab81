// What running a file gives ends when somebody changes the file.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "tests/mount/oracle.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr uid_t kUser = 4242;
constexpr const char* kCapability = "security.capability";

int give_capability(const std::string& file) {
  vfs_cap_data data{};
  data.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
  data.data[0].permitted = 1u << CAP_DAC_READ_SEARCH;
  return error_of(setxattr(file.c_str(), kCapability, &data, sizeof data, 0));
}

int capability_of(const std::string& file) {
  return error_of(getxattr(file.c_str(), kCapability, nullptr, 0));
}

}  // namespace

TEST_CASE("a file that is written loses its capabilities, by the page cache or beside it") {
  Mount mount;
  const std::string file = mount.path("tool");
  write_file(file, pattern(2 * kBlock, 1));
  const std::unique_ptr<void, decltype(&std::free)> block(std::aligned_alloc(kBlock, kBlock),
                                                          std::free);
  for (const int flags : {0, O_DIRECT, O_APPEND, O_DIRECT | O_APPEND}) {
    INFO(flags);
    const daxfs::UniqueFd fd = open_file(file, O_WRONLY | flags);
    for (int round = 0; round < 2; ++round) {
      REQUIRE(setxattr(file.c_str(), "user.kept", "x", 1, 0) == 0);
      if (const int refused = give_capability(file); refused == EPERM) {
        skip_here("this user may not give capabilities");
      } else {
        REQUIRE(refused == 0);
      }
      CHECK(capability_of(file) == 0);
      REQUIRE(write(fd.get(), block.get(), kBlock) == ssize_t(kBlock));
      CHECK(capability_of(file) == ENODATA);
      CHECK(getxattr(file.c_str(), "user.kept", nullptr, 0) == 1);
    }
  }
}

TEST_CASE("set-user-id goes when somebody without privilege punches or allocates") {
  Mount mount;
  const std::string file = mount.path("tool");
  for (const int mode : {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE, 0}) {
    INFO(mode);
    write_file(file, pattern(4 * kBlock, 1));
    REQUIRE(chmod(file.c_str(), 06777) == 0);
    const int done = in_child(
        [&] {
          const daxfs::UniqueFd fd(open(file.c_str(), O_RDWR));
          return error_of(fallocate(fd.get(), mode, 0, 8 * kBlock));
        },
        kUser);
    REQUIRE(done == 0);
    CHECK((status_of(file).st_mode & 07777) == 0777);
  }
}

TEST_CASE("set-id bits go with a change of contents as on ext4, whoever makes it") {
  need_command("setpriv");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    without() { setpriv --inh-caps=-fsetid --bounding-set=-fsetid -- "$@"; }
    root() { "$@"; }
    try_all() {
      for mode in 6666 6777 2666 2676; do
        head -c 200000 /dev/zero > f; chown $owner f; chmod $mode f
        "$@"; stat -c '%A' f
      done
    }
    for owner in 0:0 0:4243 4242:4242; do
      for who in root without 'as 4242 4242' 'as 4242 4242,4243'; do
        echo "== $owner $who"
        try_all $who fallocate -l 300000 f
        try_all $who fallocate -p -l 65536 f
        try_all $who fallocate -z -l 65536 f
      done
    done)sh");
}

TEST_CASE("set-user-id goes with a write of somebody else, at once and for all to see") {
  need_command("setpriv");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    for owner in 0:0 4242:4242; do
      for mode in 6666 6676 6766 6777; do
        for how in 'bs=10 count=1' 'bs=4096 count=1 oflag=direct' 'bs=10 count=1 oflag=append'; do
          head -c 8192 /dev/zero > f; chown $owner f; chmod $mode f; stat -c %A f
          as 4242 4242 dd if=/dev/zero of=f conv=notrunc $how 2>&1 | tail -n 0; stat -c %A f
        done
        chmod $mode f; as 4242 4242 truncate -s 10 f; stat -c %A f
        chmod $mode f; as 4242 4242 sh -c 'echo x > f'; stat -c %A f
      done
    done)sh");
}
