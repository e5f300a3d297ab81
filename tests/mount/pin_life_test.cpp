// How long pins live, and who sees them.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;

struct PinLife : Mount {
  PinLife() {
    write_file(file, pattern(kBlocks * kBlock, 1));
    REQUIRE(chmod(file.c_str(), 0666) == 0);
  }
  std::uint64_t pin(int fd, std::uint32_t flags = 0) {
    std::uint64_t id = 0;
    REQUIRE(daxfs_pin(fd, 0, kBlocks * kBlock, flags, &id) == 0);
    return id;
  }
  bool pins_become(std::uint64_t count) {
    return eventually([&] { return status()["pins"]["long"] == count; });
  }
  const std::string file = path("f");
};

}  // namespace

TEST_CASE_METHOD(PinLife, "a pin lives until the last of its descriptors is closed") {
  daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  const std::uint64_t id = pin(fd.get());
  SECTION("dup") {
    daxfs::UniqueFd twin(dup(fd.get()));
    fd = daxfs::UniqueFd();
    CHECK(punch(file, 0, kBlock) == ETXTBSY);
    CHECK(daxfs_pin_extents(twin.get(), id, nullptr, 0) >= 1);
    twin = daxfs::UniqueFd();
  }
  SECTION("dup, and unpinned through the other") {
    const daxfs::UniqueFd twin(dup(fd.get()));
    CHECK(daxfs_unpin(twin.get(), id) == 0);
    CHECK(error_of(daxfs_unpin(fd.get(), id)) == ENOENT);
  }
  SECTION("fork") {
    ReadyChild child([] { return 0; });
    fd = daxfs::UniqueFd();
    CHECK(punch(file, 0, kBlock) == ETXTBSY);
    CHECK(status()["pins"]["long"] == 1);
    child.kill();
  }
  SECTION("a memory mapping of the file keeps it open") {
    void* const mapped = mmap(nullptr, kBlock, PROT_READ, MAP_SHARED, fd.get(), 0);
    REQUIRE(mapped != MAP_FAILED);
    fd = daxfs::UniqueFd();
    CHECK(punch(file, 0, kBlock) == ETXTBSY);
    REQUIRE(munmap(mapped, kBlock) == 0);
  }
  CHECK(pins_become(0));
  CHECK(punch(file, 0, kBlock) == 0);
}

TEST_CASE_METHOD(PinLife, "opening the same file again is another holder") {
  daxfs::UniqueFd first = open_file(file, O_RDONLY);
  const daxfs::UniqueFd second = open_file(file, O_RDONLY);
  pin(first.get());
  pin(second.get());
  CHECK(extents_of(second.get())[0].pins == 2);
  first = daxfs::UniqueFd();
  CHECK(pins_become(1));
  CHECK(punch(file, 0, kBlock) == ETXTBSY);
}

TEST_CASE_METHOD(PinLife, "one descriptor may hold many pins, all gone at its close") {
  daxfs::UniqueFd fd = open_file(file, O_RDWR);
  for (int i = 0; i < 1000; ++i) pin(fd.get(), i % 2 == 0 ? 0 : DAXFS_PIN_WRITE);
  CHECK(status()["pins"]["long"] == 1000);
  CHECK(ctl("pins").size() == 1000);
  CHECK(extents_of(fd.get())[0].pins == 1000);
  fd = daxfs::UniqueFd();
  CHECK(pins_become(0));
  CHECK(ctl("pins").empty());
}

TEST_CASE_METHOD(PinLife, "an unlinked file can be pinned, and stays") {
  const std::uint64_t before = free();
  daxfs::UniqueFd fd = open_file(file, O_RDWR);
  REQUIRE(unlink(file.c_str()) == 0);
  const std::uint64_t id = pin(fd.get(), DAXFS_PIN_WRITE);
  std::size_t length = 0;
  char* const view = view_of(fd.get(), id, &length);
  CHECK(difference(std::string_view(view, length), pattern(kBlocks * kBlock, 1)) == "");
  CHECK(ctl("pins").size() == 1);
  CHECK(error_of(ftruncate(fd.get(), 0)) == ETXTBSY);
  REQUIRE(daxfs_unmap(view, length) == 0);
  fd = daxfs::UniqueFd();
  CHECK(eventually([&] { return free() >= before + kBlocks * kBlock; }));
  CHECK(limbo() == 0);
}

TEST_CASE_METHOD(PinLife, "pins say who, what and since when") {
  HoldProcess holder(file, kBlock, 2 * kBlock);
  const daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  std::uint64_t id = 0;
  REQUIRE(daxfs_pin(fd.get(), 100, 50, DAXFS_PIN_SHORT, &id) == 0);
  const Json pins = ctl("pins");
  REQUIRE(pins.size() == 2);
  for (const Json& pin : pins) {
    CHECK(pin["path"] == "/f");
    CHECK(pin["inode"] == status_of(file).st_ino);
    CHECK(pin["uid"] == 0);
    CHECK(pin["lease"].is_null());
    CHECK(pin["since"].get<double>() > 1.6e9);
    const bool mine = pin["pid"] == getpid();
    CHECK(pin["kind"] == (mine ? "short" : "long"));
    CHECK(pin["write"] == !mine);
    CHECK(pin["offset"] == (mine ? 100u : kBlock));
    CHECK(pin["length"] == (mine ? 50u : 2 * kBlock));
    CHECK(pin["command"] == (mine ? "tests_mount" : "daxfs-hold"));
    if (!mine) CHECK(pin["pid"] == holder.process().pid());
  }
  const Json totals = status()["pins"];
  CHECK(totals["long"] == 1);
  CHECK(totals["short"] == 1);
  CHECK(totals["bytes"] == 3 * kBlock);
  std::uint64_t long_pins = 0;
  std::uint64_t short_pins = 0;
  for (const Json& extent : ctl("extents", "f")) {
    long_pins = std::max(long_pins, extent["long"].get<std::uint64_t>());
    short_pins = std::max(short_pins, extent["short"].get<std::uint64_t>());
  }
  CHECK(long_pins == 1);
  CHECK(short_pins == 1);
}

TEST_CASE_METHOD(PinLife, "others' pins are shown to root, and counted for everybody") {
  constexpr uid_t kUser = 4242;
  const ReadyChild stranger(
      [&] {
        const int fd = open(file.c_str(), O_RDONLY);
        std::uint64_t id = 0;
        return error_of(daxfs_pin(fd, 0, kBlock, 0, &id));
      },
      kUser);
  REQUIRE(stranger.result() == 0);
  const daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  pin(fd.get());

  CHECK(ctl("pins").size() == 2);
  const auto seen_by = [&](uid_t user) {
    const Finished shown = run_as(user, {"daxfsctl", "pins", path(), "--json"});
    INFO(shown.err);
    REQUIRE(shown.code == 0);
    return Json::parse(shown.out);
  };
  const Json own = seen_by(kUser);
  REQUIRE(own.size() == 1);
  CHECK(own[0]["uid"] == kUser);
  CHECK(own[0]["pid"] == stranger.pid());
  CHECK(seen_by(kUser + 1).empty());
  const Finished counts = run_as(kUser + 1, {"daxfsctl", "extents", file, "--json"});
  REQUIRE(counts.code == 0);
  CHECK(Json::parse(counts.out)[0]["long"] == 2);
}
