// Read-only mounts: nothing is stored to the pool, which is mapped without the right to.
#include <sys/statvfs.h>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;

struct ReadOnly : Mount {
  ReadOnly() : Mount({.size = {}, .options = "pin_policy=defer", .pool = {}}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
  }
  // What a holder runs: pins all of the file, and keeps it.
  int pin(int flags, std::uint32_t pin_flags) const {
    const int fd = open(file.c_str(), flags);
    std::uint64_t id = 0;
    return fd >= 0 && daxfs_pin(fd, 0, kBlocks * kBlock, pin_flags, &id) == 0 ? 0 : 1;
  }
  bool pins_become(std::uint64_t count) const {
    return eventually([&] { return status()["pins"]["long"] == count; });
  }
  const std::string file = path("f");
};

}  // namespace

TEST_CASE_METHOD(ReadOnly, "a holder that outlives the daemon may end under a read-only mount") {
  const std::uint64_t before = free();
  const bool writes = GENERATE(false, true);
  CAPTURE(writes);
  ReadyChild holder([&] { return writes ? pin(O_RDWR, DAXFS_PIN_WRITE) : pin(O_RDONLY, 0); });
  REQUIRE(holder.result() == 0);
  REQUIRE(punch(file, 0, 2 * kBlock) == 0);
  REQUIRE(space_becomes(before, 2 * kBlock));
  const std::int64_t changed = Snapshot(file).mtime_ns;

  kill_daemon();
  mount("ro");
  REQUIRE(pins_become(1));
  CHECK(space_becomes(before, 2 * kBlock));
  holder.kill();
  REQUIRE(pins_become(0));
  // It still answers, and what nobody holds any more counts as free.
  CHECK(space_becomes(before + 2 * kBlock, 0));
  CHECK(difference(read_file(file), std::string(2 * kBlock, '\0') +
                                        pattern(kBlocks * kBlock, 1).substr(2 * kBlock)) == "");
  CHECK(Snapshot(file).mtime_ns == changed);
  unmount();

  // The record has stayed, and goes now: its owner is dead.
  mount("exit_grace=0");
  CHECK(status()["pins"]["long"] == 0);
  CHECK(space_becomes(before + 2 * kBlock, 0));
  unmount();
  CHECK(check_pool() == before + 2 * kBlock);
}

TEST_CASE_METHOD(ReadOnly, "a survivor's pin that a read-only mount gives to a new descriptor") {
  const std::uint64_t before = free();
  daxfs::UniqueFd old = open_file(file, O_RDONLY);
  std::uint64_t id = 0;
  REQUIRE(daxfs_pin(old.get(), 0, kBlocks * kBlock, 0, &id) == 0);
  kill_daemon();
  old = daxfs::UniqueFd();
  mount("ro");
  daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  REQUIRE(daxfs_adopt(fd.get(), id) == 0);
  SECTION("unpinned") { CHECK(daxfs_unpin(fd.get(), id) == 0); }
  SECTION("closed") { fd = daxfs::UniqueFd(); }
  CHECK(pins_become(0));
  CHECK(difference(read_file(file), pattern(kBlocks * kBlock, 1)) == "");
  fd = daxfs::UniqueFd();
  unmount();

  // This process lives, and so does what is recorded of it.
  mount();
  CHECK(pins_become(1));
  CHECK(free() == before);
  fd = open_file(file, O_RDONLY);
  REQUIRE(daxfs_adopt(fd.get(), id) == 0);
  REQUIRE(daxfs_unpin(fd.get(), id) == 0);
  CHECK(pins_become(0));
}
