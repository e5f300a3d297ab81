// A pin can make a file longer without the kernel's doing. What is appended then must not go where
// the kernel still takes the end to be: a holder may be at work there.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::size_t kLength = 16 * kBlock;

// By ioctl: libdaxfs would have the kernel ask for the new size at once.
std::uint64_t grow_by_pin(int fd) {
  daxfs_pin_args pin{};
  pin.length = kLength;
  pin.flags = DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE;
  REQUIRE(ioctl(fd, DAXFS_IOC_PIN, &pin) == 0);
  return pin.pin_id;
}

// Replies to LINK come late: what was true when it was done may not be when the kernel hears of it.
class LateLinks {
 public:
  LateLinks() { setenv("DAXFS_TEST_LATE_REPLY", "13:300000", 1); }
  ~LateLinks() { unsetenv("DAXFS_TEST_LATE_REPLY"); }
  LateLinks(const LateLinks&) = delete;
  LateLinks& operator=(const LateLinks&) = delete;
};

void append_both_ways(const Mount& mount, int fd, int pinned) {
  std::size_t length = 0;
  char* const view = view_of(pinned, grow_by_pin(pinned), &length);
  std::memset(view, 'P', kLength);
  const std::string text(kBlock, 'a');
  REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  CHECK(std::string(view, kLength) == std::string(kLength, 'P'));
  daxfs_unmap(view, length);
  const std::string name = mount.path("f");
  CHECK(status_of(name).st_size == static_cast<off_t>(kLength + 2 * kBlock));
  CHECK(read_file(name) == std::string(kLength, 'P') + text + text);
  CHECK(read_at(fd, 0, kLength) == std::string(kLength, 'P'));
  // Cut off, the end is where the kernel sees it.
  REQUIRE(ftruncate(fd, kLength + 1) == 0);
  REQUIRE(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  CHECK(read_at(fd, kLength + 1, 2 * kBlock) == text);
}

}  // namespace

TEST_CASE("an append goes behind what a pin has added, also where the kernel does not know it") {
  need_mounts();
  Mount mount;
  const int direct = GENERATE(0, O_DIRECT);
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT | O_APPEND | direct);
  REQUIRE(::write(fd.get(), "hello", 5) == 5);
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  append_both_ways(mount, fd.get(), holder.get());
}

TEST_CASE("a late answer to link(2) does not take a file's length back") {
  need_mounts();
  const LateLinks late;
  Mount mount;
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT | O_APPEND);
  REQUIRE(::write(fd.get(), "hello", 5) == 5);
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  Attempt linking([&] { return error_of(link(mount.path("f").c_str(), mount.path("g").c_str())); });
  REQUIRE(eventually([&] {
    struct statx now {};
    return statx(fd.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_ALL, &now) == 0 &&
           now.stx_nlink == 2;
  }));
  grow_by_pin(holder.get());
  CHECK(linking.finish() == 0);
  CHECK(status_of(mount.path("g")).st_size == static_cast<off_t>(kLength));
  CHECK(status_of(mount.path("f")).st_size == static_cast<off_t>(kLength));
  REQUIRE(::write(fd.get(), "end", 3) == 3);
  CHECK(read_at(fd.get(), 0, 8) == std::string("hello\0\0\0", 8));
  CHECK(read_at(fd.get(), kLength, 8) == "end");
}

}  // namespace daxfs::test
