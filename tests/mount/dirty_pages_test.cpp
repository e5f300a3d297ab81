// What programs have stored through ordinary mappings is seen before the kernel has written it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::size_t kSize = 1 << 20;
constexpr std::size_t kMiddle = kSize / 2;

// A file that is one hole, mapped.
class MappedHole {
 public:
  explicit MappedHole(const Mount& mount)
      : name_(mount.path("f")), fd_(open_file(name_, O_RDWR | O_CREAT)) {
    REQUIRE(ftruncate(fd_.get(), kSize) == 0);
    memory_ =
        static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
    REQUIRE(memory_ != MAP_FAILED);
  }
  ~MappedHole() { munmap(memory_, kSize); }
  MappedHole(const MappedHole&) = delete;
  MappedHole& operator=(const MappedHole&) = delete;

  char* memory() const { return memory_; }
  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  UniqueFd fd_;
  char* memory_ = nullptr;
};

}  // namespace

TEST_CASE("SEEK_DATA and SEEK_HOLE see what an ordinary mapping has stored") {
  need_mounts();
  Mount mount;
  const MappedHole file(mount);
  if (GENERATE(false, true)) {
    INFO("preallocated");
    REQUIRE(fallocate(file.fd(), 0, 0, kSize) == 0);
  }
  for (const std::size_t at : {kMiddle, kMiddle / 2, std::size_t{0}}) {
    std::memcpy(file.memory() + at, "DATA", 4);
    CHECK(lseek(file.fd(), 0, SEEK_DATA) == static_cast<off_t>(at));
    CHECK(lseek(file.fd(), static_cast<off_t>(at), SEEK_HOLE) == static_cast<off_t>(at + 4096));
  }
  std::array<daxfs_extent, 8> extents{};
  std::memcpy(file.memory() + kSize - 4096, "DATA", 4);
  const ssize_t count = daxfs_extents(file.fd(), kSize - 4096, 4096, extents.data(), 8);
  REQUIRE(count == 1);
  CHECK((extents[0].flags & DAXFS_EXTENT_UNWRITTEN) == 0);
}

TEST_CASE("a pin shows its holder what an ordinary mapping has stored, and neither destroys it") {
  need_mounts();
  Mount mount;
  const MappedHole file(mount);
  const UniqueFd holder = open_file(file.name(), O_RDWR);
  SECTION("what was written before") { REQUIRE(pwrite(file.fd(), "old", 3, kMiddle) == 3); }
  SECTION("what was a hole") {}
  file.memory()[kMiddle] = 'A';
  const auto flags = GENERATE(0u, std::uint32_t{DAXFS_PIN_WRITE});
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(holder.get(), kMiddle, 4096, flags, &pin) == 0);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), pin, &length);
  CHECK(view[0] == 'A');
  if (flags != 0) {
    view[100] = 'B';
    REQUIRE(msync(file.memory(), kSize, MS_SYNC) == 0);
    CHECK(view[100] == 'B');
    CHECK(view[0] == 'A');
  }
  REQUIRE(daxfs_unmap(view, length) == 0);
  REQUIRE(daxfs_unpin(holder.get(), pin) == 0);
}

TEST_CASE("what a mapping stores beside a holder's bytes, while they are pinned, destroys none") {
  need_mounts();
  Mount mount;
  const MappedHole file(mount);
  const UniqueFd older = open_file(file.name(), O_RDWR);
  const UniqueFd holder = open_file(file.name(), O_RDWR);
  REQUIRE(pwrite(file.fd(), "old", 3, kMiddle) == 3);
  volatile const char seen = file.memory()[kMiddle];  // the kernel has the page before the pin
  static_cast<void>(seen);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(holder.get(), kMiddle, 8192, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) == 0);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), pin, &length);
  const auto both = [&](int round) {
    INFO("round " << round);
    file.memory()[kMiddle + 10] = static_cast<char>('a' + round);
    view[100] = static_cast<char>('A' + round);
    REQUIRE(msync(file.memory(), kSize, MS_SYNC) == 0);
    CHECK(view[100] == 'A' + round);
    CHECK(view[10] == 'a' + round);
  };
  for (int round = 0; round < 3; ++round) both(round);
  SECTION("a whole page written past a read of it") {
    const std::string page(4096, 'w');
    REQUIRE(pwrite(older.get(), page.data(), page.size(), kMiddle) == 4096);
    for (int round = 3; round < 6; ++round) both(round);
  }
  SECTION("a part of it written") {
    REQUIRE(pwrite(older.get(), "part", 4, kMiddle + 98) == 4);
    for (int round = 3; round < 6; ++round) both(round);
    CHECK(view[99] == 'a');
  }
  SECTION("a part of it punched") {
    REQUIRE(fallocate(older.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kMiddle + 50, 30) ==
            0);
    view[60] = 'd';
    for (int round = 3; round < 6; ++round) both(round);
    CHECK(view[60] == 'd');
  }
  SECTION("read through another descriptor that was there before") {
    CHECK(read_at(older.get(), kMiddle + 10, 1) == "c");
  }
  // What is still dirty when the pin goes.
  file.memory()[kMiddle + 11] = 'x';
  view[101] = 'X';
  REQUIRE(daxfs_unmap(view, length) == 0);
  REQUIRE(daxfs_unpin(holder.get(), pin) == 0);
  const std::string now = read_at(older.get(), kMiddle, 4096);
  CHECK(now[11] == 'x');
  CHECK(now[101] == 'X');
  CHECK(file.memory()[kMiddle + 101] == 'X');
}

}  // namespace daxfs::test
