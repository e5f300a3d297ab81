// A pool that runs out of space stays sound, and space comes back to the block.
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kPiece = 100'000;

struct SmallPool : Mount {
  SmallPool() : Mount({.size = "8M"}) {
    write_file(path("stays"), "stays");
    before = free();
  }
  // Writes until nothing more goes in; how much of pattern(…, seed) the file then has.
  std::size_t fill(const std::string& name, int flags) {
    const daxfs::UniqueFd fd = open_file(path(name), O_WRONLY | O_CREAT | flags);
    const std::string data = pattern(16 << 20, 7);
    std::size_t written = 0;
    for (;;) {
      const ssize_t done =
          pwrite(fd.get(), data.data() + written, kPiece, static_cast<off_t>(written));
      if (done < 0) {
        CHECK(errno == ENOSPC);
        break;
      }
      REQUIRE(done > 0);
      written += static_cast<std::size_t>(done);
    }
    return written;
  }
  std::uint64_t before = 0;
};

}  // namespace

TEST_CASE_METHOD(SmallPool, "a full pool refuses with ENOSPC and keeps what it has") {
  const std::size_t written = fill("big", O_DIRECT);
  CHECK(written > before - kPiece);
  CHECK(free() < 2 * kBlock);
  CHECK(status_of(path("big")).st_size == static_cast<off_t>(written));
  CHECK(difference(read_file(path("big")), pattern(16 << 20, 7).substr(0, written)) == "");
  CHECK(read_file(path("stays")) == "stays");

  // What needs no new block goes on.
  write_at(open_file(path("big"), O_WRONLY).get(), 0, "in place");
  REQUIRE(chmod(path("stays").c_str(), 0600) == 0);
  REQUIRE(rename(path("stays").c_str(), path("kept").c_str()) == 0);
  CHECK(error_of(fallocate(open_file(path("kept"), O_WRONLY).get(), 0, 0, 1 << 20)) == ENOSPC);
  // Names go in until the directory needs a block; then ENOSPC, and the tree is as before.
  int code = 0;
  int made = 0;
  for (; code == 0 && made < 5000; ++made) {
    code = error_of(mkdir(path("d" + std::to_string(made)).c_str(), 0755));
  }
  CHECK(code == ENOSPC);
  for (int i = 0; i + 1 < made; ++i) REQUIRE(rmdir(path("d" + std::to_string(i)).c_str()) == 0);

  unmount();
  check_pool();
  mount();
  CHECK(read_file(path("kept")) == "stays");
  REQUIRE(unlink(path("big").c_str()) == 0);
  CHECK(space_becomes(before, 0));
}

TEST_CASE_METHOD(SmallPool, "a buffered writer on a full pool hears of it") {
  const std::size_t written = fill("big", 0);
  CHECK(written > before - kPiece);
  CHECK(difference(read_file(path("big")), pattern(16 << 20, 7).substr(0, written)) == "");
  REQUIRE(truncate(path("big").c_str(), 0) == 0);
  CHECK(space_becomes(before, 0));
}

TEST_CASE_METHOD(SmallPool, "a full pool still punches, truncates and removes") {
  const std::size_t written = fill("big", O_DIRECT);
  const std::uint64_t full = free();
  const daxfs::UniqueFd fd = open_file(path("big"), O_RDWR);
  REQUIRE(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 64 * kBlock,
                    16 * kBlock) == 0);
  CHECK(free() == full + 16 * kBlock);
  REQUIRE(ftruncate(fd.get(), 10 * kBlock) == 0);
  // The list of a file's extents can take a block of its own.
  CHECK(free() <= before - 10 * kBlock);
  CHECK(free() >= before - 11 * kBlock);
  CHECK(difference(read_at(fd.get(), 0, written), pattern(16 << 20, 7).substr(0, 10 * kBlock)) ==
        "");
  REQUIRE(ftruncate(fd.get(), 0) == 0);
  CHECK(space_becomes(before, 0));
}

TEST_CASE_METHOD(SmallPool, "a fragmented file gives everything back, its own records too") {
  write_fragmented(path("f"), 600, 1);
  CHECK(free() < before - 600 * kBlock);
  SECTION("removed") { REQUIRE(unlink(path("f").c_str()) == 0); }
  SECTION("removed after a remount") {
    remount();
    REQUIRE(unlink(path("f").c_str()) == 0);
  }
  SECTION("punched, then removed") {
    const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);
    for (int i = 0; i < 600; i += 2) {
      REQUIRE(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 4096, 4096) == 0);
    }
    REQUIRE(unlink(path("f").c_str()) == 0);
  }
  SECTION("replaced") {
    write_file(path("g"), "");
    REQUIRE(rename(path("g").c_str(), path("f").c_str()) == 0);
  }
  CHECK(space_becomes(before, 0));
}
