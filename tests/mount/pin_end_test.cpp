// Pins at and behind the end of a file.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

TEST_CASE("who appends to a file that a pin has made longer writes behind what is pinned") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "");
  const daxfs::UniqueFd log = open_file(file, O_WRONLY | O_APPEND);
  const daxfs::UniqueFd direct = open_file(file, O_WRONLY | O_APPEND | O_DIRECT);
  const daxfs::UniqueFd holder = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(holder.get(), 0, 16 * kBlock, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) == 0);
  REQUIRE(write(log.get(), "appended", 8) == 8);
  CHECK(status_of(file).st_size == off_t(16 * kBlock + 8));
  std::uint64_t more = 0;
  REQUIRE(daxfs_pin(holder.get(), 0, 32 * kBlock, DAXFS_PIN_ALLOCATE, &more) == 0);
  REQUIRE(write(direct.get(), "direct", 6) == 6);
  CHECK(status_of(file).st_size == off_t(32 * kBlock + 6));
  const std::string seen = read_file(file);
  CHECK(seen.substr(0, 16 * kBlock) == std::string(16 * kBlock, '\0'));
  CHECK(seen.substr(16 * kBlock, 8) == "appended");
  CHECK(seen.substr(32 * kBlock) == "direct");
}

TEST_CASE("what a holder wrote behind the end reads as zeroes when the file grows over it") {
  Mount mount;
  const std::string file = mount.path("f");
  const daxfs::UniqueFd fd = open_file(file, O_RDWR | O_CREAT);
  REQUIRE(write(fd.get(), "short", 5) == 5);
  REQUIRE(fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 8 * kBlock) == 0);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, 8 * kBlock, DAXFS_PIN_WRITE, &pin) == 0);
  std::size_t length = 0;
  char* const view = view_of(fd.get(), pin, &length);
  REQUIRE(length == 8 * kBlock);
  std::memset(view + 5, 'h', length - 5);
  REQUIRE(daxfs_unmap(view, length) == 0);
  REQUIRE(daxfs_unpin(fd.get(), pin) == 0);
  CHECK(read_file(file) == "short");
  SECTION("by truncate") {
    REQUIRE(ftruncate(fd.get(), 6 * kBlock) == 0);
    CHECK(read_file(file) == "short" + std::string(6 * kBlock - 5, '\0'));
  }
  SECTION("by a write") {
    REQUIRE(pwrite(fd.get(), "end", 3, 6 * kBlock) == 3);
    CHECK(read_file(file) == "short" + std::string(6 * kBlock - 5, '\0') + "end");
  }
}
