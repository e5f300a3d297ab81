// What daxfs_pin() and its ioctls refuse, and with which errno.
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct PinErrors : Mount {
  PinErrors() { write_file(path("f"), pattern(8 * kBlock, 1)); }
  int pin(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t flags = 0) {
    return error_of(daxfs_pin(fd, offset, length, flags, &id));
  }
  std::uint64_t pins() { return status()["pins"]["long"]; }
  std::uint64_t id = 0;
};

// The real arguments with other sizes.
struct SmallerPin {
  std::uint64_t offset, length;
  std::uint32_t flags, reserved;
};
struct LargerPin {
  daxfs_pin_args pin;
  std::uint64_t more;
};

}  // namespace

TEST_CASE_METHOD(PinErrors, "the descriptor must be open for what the pin does") {
  const daxfs::UniqueFd reader = open_file(path("f"), O_RDONLY);
  const daxfs::UniqueFd writer = open_file(path("f"), O_WRONLY);
  const daxfs::UniqueFd named = open_file(path("f"), O_PATH);
  CHECK(pin(writer.get(), 0, kBlock) == EBADF);
  CHECK(pin(writer.get(), 0, kBlock, DAXFS_PIN_WRITE) == EBADF);
  CHECK(pin(reader.get(), 0, kBlock, DAXFS_PIN_WRITE) == EBADF);
  CHECK(pin(reader.get(), 0, kBlock, DAXFS_PIN_ALLOCATE) == EBADF);
  CHECK(pin(named.get(), 0, kBlock) == EBADF);
  CHECK(pin(-1, 0, kBlock) == EBADF);
  CHECK(daxfs_extents(writer.get(), 0, kBlock, nullptr, 0) == -1);
  CHECK(errno == EBADF);
  CHECK(pins() == 0);
  CHECK(pin(reader.get(), 0, kBlock) == 0);
}

TEST_CASE_METHOD(PinErrors, "senseless ranges and flags are EINVAL") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);
  constexpr std::uint64_t kEnd = INT64_MAX;
  CHECK(pin(fd.get(), 0, 0) == EINVAL);
  CHECK(pin(fd.get(), kEnd, 1) == EINVAL);
  CHECK(pin(fd.get(), 1, kEnd) == EINVAL);
  CHECK(pin(fd.get(), 0, kEnd + 1) == EINVAL);
  CHECK(pin(fd.get(), kEnd + 1, 1) == EINVAL);
  CHECK(pin(fd.get(), 0, ~0ull) == EINVAL);
  CHECK(pin(fd.get(), ~0ull, 2) == EINVAL);
  CHECK(pin(fd.get(), kEnd - 1, 1) == ENXIO);  // as far as a file can go
  CHECK(pin(fd.get(), 0, kBlock, 0x10) == EINVAL);
  CHECK(pin(fd.get(), 0, kBlock, 0x80000000) == EINVAL);
  CHECK(error_of(daxfs_pin(fd.get(), 0, kBlock, 0, nullptr)) == EINVAL);
  daxfs_pin_args args = {};
  args.length = kBlock;
  args.reserved = 1;
  CHECK(error_of(ioctl(fd.get(), DAXFS_IOC_PIN, &args)) == EINVAL);
  CHECK(pins() == 0);
}

TEST_CASE_METHOD(PinErrors, "only regular files of a daxfs mount can be pinned") {
  const daxfs::UniqueFd directory = open_file(path(), O_RDONLY | O_DIRECTORY);
  CHECK(pin(directory.get(), 0, kBlock) == EINVAL);
  CHECK(error_of(daxfs_extents(directory.get(), 0, kBlock, nullptr, 0)) == EINVAL);
  CHECK(error_of(daxfs_unpin(directory.get(), 1)) == ENOENT);
  daxfs_query_args room = {};
  CHECK(error_of(ioctl(directory.get(), _IO(DAXFS_IOC_MAGIC, 99), &room)) == ENOTTY);
  write_file(beside("elsewhere"), "x");
  CHECK(pin(open_file(beside("elsewhere"), O_RDWR).get(), 0, 1) == ENOTTY);
  CHECK(pin(open_file("/dev/null", O_RDWR).get(), 0, 1) == ENOTTY);
}

TEST_CASE_METHOD(PinErrors, "holes are ENXIO, unless they may be filled") {
  const daxfs::UniqueFd fd = open_file(path("sparse"), O_RDWR | O_CREAT);
  write_at(fd.get(), 2 * kBlock, "x");
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(pin(fd.get(), 0, kBlock) == ENXIO);
  CHECK(pin(fd.get(), kBlock, 2 * kBlock) == ENXIO);
  CHECK(pin(fd.get(), 2 * kBlock, 1) == 0);
  CHECK(pin(fd.get(), 2 * kBlock + 1, kBlock) == ENXIO);
  CHECK(pin(fd.get(), 100 * kBlock, 1, DAXFS_PIN_WRITE) == ENXIO);
  CHECK(status_of(path("sparse")).st_blocks == 8);

  CHECK(pin(fd.get(), kBlock + 10, 4 * kBlock, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE) == 0);
  CHECK(status_of(path("sparse")).st_size == 5 * 4096 + 10);
  CHECK(status_of(path("sparse")).st_blocks == 5 * 8);
  CHECK(data_parts(path("sparse")) == Parts{{kBlock, 5 * kBlock + 10}});
  std::string expected(5 * kBlock + 10, '\0');
  expected[2 * kBlock] = 'x';
  CHECK(difference(read_file(path("sparse")), expected) == "");
  // Within the file, nothing grows.
  CHECK(pin(fd.get(), 0, 10, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE) == 0);
  CHECK(status_of(path("sparse")).st_size == 5 * 4096 + 10);
}

TEST_CASE_METHOD(PinErrors, "preallocated blocks become written and zeroed") {
  // Blocks that have been somebody's before.
  write_file(path("old"), pattern(20 * kBlock, 2));
  REQUIRE(unlink(path("old").c_str()) == 0);
  const daxfs::UniqueFd fd = open_file(path("new"), O_RDWR | O_CREAT);
  REQUIRE(fallocate(fd.get(), 0, 0, 50 * kBlock) == 0);
  for (const daxfs_extent& extent : extents_of(fd.get())) {
    CHECK((extent.flags & DAXFS_EXTENT_UNWRITTEN) != 0);
  }
  REQUIRE(pin(fd.get(), 0, 50 * kBlock) == 0);
  for (const daxfs_extent& extent : extents_of(fd.get())) {
    CHECK((extent.flags & DAXFS_EXTENT_UNWRITTEN) == 0);
    CHECK(extent.pins == 1);
  }
  std::size_t length = 0;
  char* const view = view_of(fd.get(), id, &length);
  CHECK(difference(std::string_view(view, length), std::string(50 * kBlock, '\0')) == "");
  REQUIRE(daxfs_unmap(view, length) == 0);
  CHECK(data_parts(path("new")) == Parts{{0, 50 * kBlock}});
}

TEST_CASE_METHOD(PinErrors, "a pin that does not fit into the pool changes nothing") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);
  const Snapshot before(path("f"));
  const std::uint64_t free_before = free();
  next_tick();
  CHECK(pin(fd.get(), 0, 1ull << 40, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE) == ENOSPC);
  CHECK(Snapshot(path("f")) == before);
  CHECK(free() == free_before);
  CHECK(pins() == 0);
}

TEST_CASE_METHOD(PinErrors, "only the holder can name a pin") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);
  const daxfs::UniqueFd stranger = open_file(path("f"), O_RDWR);
  CHECK(error_of(daxfs_unpin(fd.get(), 0)) == ENOENT);
  CHECK(error_of(daxfs_unpin(fd.get(), 12345)) == ENOENT);
  CHECK(error_of(daxfs_unpin(fd.get(), ~0ull)) == ENOENT);
  REQUIRE(pin(fd.get(), 0, kBlock) == 0);
  std::size_t length = 0;
  CHECK(error_of(daxfs_unpin(stranger.get(), id)) == ENOENT);
  CHECK(error_of(daxfs_pin_extents(stranger.get(), id, nullptr, 0)) == ENOENT);
  CHECK(daxfs_map(stranger.get(), id, &length) == nullptr);
  CHECK(errno == ENOENT);
  CHECK(pins() == 1);
  CHECK(daxfs_unpin(fd.get(), id) == 0);
  CHECK(error_of(daxfs_unpin(fd.get(), id)) == ENOENT);
  CHECK(error_of(daxfs_pin_extents(fd.get(), id, nullptr, 0)) == ENOENT);
}

TEST_CASE_METHOD(PinErrors, "ioctls of a wrong size or number are ENOTTY") {
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);
  daxfs_query_args room = {};  // larger than any of them
  CHECK(error_of(ioctl(fd.get(), _IOWR(DAXFS_IOC_MAGIC, 1, SmallerPin), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOWR(DAXFS_IOC_MAGIC, 1, LargerPin), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOW(DAXFS_IOC_MAGIC, 1, daxfs_pin_args), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IO(DAXFS_IOC_MAGIC, 1), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOW(DAXFS_IOC_MAGIC, 2, std::uint32_t), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOWR(DAXFS_IOC_MAGIC, 3, daxfs_pin_args), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOR(DAXFS_IOC_MAGIC, 5, std::uint64_t), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOWR(DAXFS_IOC_MAGIC, 200, daxfs_pin_args), &room)) == ENOTTY);
  CHECK(error_of(ioctl(fd.get(), _IOWR('x', 1, daxfs_pin_args), &room)) == ENOTTY);
  room.what = 999;
  CHECK(error_of(ioctl(fd.get(), DAXFS_IOC_QUERY, &room)) == EINVAL);
  CHECK(error_of(ioctl(fd.get(), DAXFS_IOC_PIN, nullptr)) == EFAULT);
  CHECK(pins() == 0);
}

TEST_CASE_METHOD(PinErrors, "a read-only mount pins for reading") {
  remount("ro");
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDONLY);
  REQUIRE(pin(fd.get(), 0, 8 * kBlock) == 0);
  CHECK(pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE) == EBADF);
  std::size_t length = 0;
  char* const view = view_of(fd.get(), id, &length);
  CHECK(difference(std::string_view(view, length), pattern(8 * kBlock, 1)) == "");
  REQUIRE(daxfs_unmap(view, length) == 0);
}
