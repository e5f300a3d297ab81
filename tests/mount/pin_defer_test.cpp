// pin_policy=defer: a detach succeeds at once, and what is pinned goes to limbo until its last pin
// ends.
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 24;

struct Deferring : Mount {
  explicit Deferring(const std::string& more = {})
      : Mount({.size = "16M+", .options = "pin_policy=defer" + more}) {
    write_file(path("source"), "");
    write_file(path("f"), "");
    empty = free();
  }
  void make(bool fragmented) { make_victim(*this, kBlocks, fragmented); }
  // Every free block gets other bytes.
  void fill_pool() {
    const std::uint64_t free_before = free();
    {
      const daxfs::UniqueFd fd = open_file(path("filler"), O_WRONLY | O_CREAT | O_DIRECT);
      const std::string data = pattern(1 << 20, 99);
      off_t at = 0;
      for (ssize_t done = 0; (done = pwrite(fd.get(), data.data(), data.size(), at)) > 0;)
        at += done;
    }
    REQUIRE(unlink(path("filler").c_str()) == 0);
    // The kernel tells of a close when it is over.
    REQUIRE(eventually([&] { return free() >= free_before; }));
  }
  std::uint64_t limbo_listed() const {
    std::uint64_t sum = 0;
    for (const Json& piece : ctl("limbo")) {
      CHECK(piece["pins"] >= 1);
      CHECK(piece["pool_offset"].get<std::uint64_t>() % kBlock == 0);
      sum += piece["length"].get<std::uint64_t>();
    }
    return sum;
  }
  std::uint64_t empty = 0;  // free, with both files empty
};

struct LittleLimbo : Deferring {
  LittleLimbo() : Deferring(",limbo_limit=64K") {}
};

}  // namespace

TEST_CASE_METHOD(Deferring, "every detach succeeds, and limbo holds exactly what is pinned") {
  struct Range {
    std::uint64_t first, count;  // blocks
  };
  for (const bool fragmented : {false, true}) {
    for (const Range range : {Range{0, kBlocks}, Range{5, 4}}) {
      for (std::size_t i = 0; i < kDetaches.size(); ++i) {
        const Detach& detach = kDetaches[i];
        const End end = kEnds[(i + range.first) % kEnds.size()];
        INFO(detach.name << ", blocks pinned: " << range.count << ", fragmented: " << fragmented
                         << ", until: " << name_of(end));
        make(fragmented);
        const std::uint64_t full = free();
        Held held(path("f"), range.first * kBlock, range.count * kBlock, end);
        const std::uint64_t pinned = range.count * kBlock;
        REQUIRE(detach.act(*this) == 0);
        const Json during = status();
        if (detach.replaces) {
          // The holder has the replaced file open: its blocks are still the file's.
          CHECK(during["limbo"] == 0);
          CHECK(during["free"] == full);
        } else {
          CHECK(during["limbo"] == pinned);
          CHECK(during["free"] == empty - pinned);
          CHECK(limbo_listed() == pinned);
        }
        const struct stat now = status_of(path("f"));
        CHECK(static_cast<std::size_t>(now.st_size) == (detach.keeps_size ? kBlocks * kBlock : 0));
        CHECK(now.st_blocks == 0);
        CHECK(data_parts(path("f")).empty());
        CHECK(read_file(path("f")) == std::string(static_cast<std::size_t>(now.st_size), '\0'));
        struct statvfs space {};
        REQUIRE(statvfs(path().c_str(), &space) == 0);
        CHECK(space.f_bfree * kBlock == during["free"]);

        fill_pool();
        held.end();
        held.close();
        CHECK(space_becomes(empty, 0));
        CHECK(ctl("limbo").empty());
      }
    }
  }
}

TEST_CASE_METHOD(Deferring, "a holder that writes never meets the file's new bytes") {
  make(true);
  HoldProcess holder(path("f"), 0, kBlocks * kBlock, {"--verify"});
  CHECK(punch(path("f"), 3 * kBlock, 5 * kBlock) == 0);
  CHECK(error_of(truncate(path("f").c_str(), 20 * kBlock)) == 0);
  CHECK(limbo() == 9 * kBlock);
  const std::string data = pattern(kBlocks * kBlock, 7);
  fill_pool();
  write_at(open_file(path("f"), O_WRONLY).get(), 3 * kBlock, data.substr(0, 5 * kBlock));
  write_at(open_file(path("f"), O_WRONLY).get(), 20 * kBlock, data.substr(0, 4 * kBlock));
  CHECK(limbo() == 9 * kBlock);
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDONLY);
  CHECK(difference(read_at(fd.get(), 3 * kBlock, 5 * kBlock), data.substr(0, 5 * kBlock)) == "");
  CHECK(difference(read_at(fd.get(), 20 * kBlock, 4 * kBlock), data.substr(0, 4 * kBlock)) == "");
  const Finished ended = holder.stop();
  INFO(ended.err);
  CHECK(ended.code == 0);
  CHECK(ended.out.find("foreign=0") != std::string::npos);
  CHECK(eventually([&] { return limbo() == 0; }));
  CHECK(difference(read_at(fd.get(), 3 * kBlock, 5 * kBlock), data.substr(0, 5 * kBlock)) == "");
}

TEST_CASE_METHOD(Deferring, "blocks leave limbo with the last of their pins, one by one") {
  make(false);
  Held first(path("f"), 0, 10 * kBlock, End::unpin);
  Held second(path("f"), 8 * kBlock, 10 * kBlock, End::unpin);
  REQUIRE(error_of(truncate(path("f").c_str(), 0)) == 0);
  CHECK(limbo() == 18 * kBlock);
  CHECK(free() == empty - 18 * kBlock);
  first.end();
  CHECK(limbo() == 10 * kBlock);
  CHECK(free() == empty - 10 * kBlock);
  second.end();
  CHECK(limbo() == 0);
  CHECK(free() == empty);
}

TEST_CASE_METHOD(Deferring, "the times of a deferred detach move like any other's") {
  make(false);
  Held held(path("f"), 0, kBlock, End::unpin);
  const Snapshot before(path("f"));
  next_tick();
  REQUIRE(punch(path("f"), 0, kBlock) == 0);
  const Snapshot after(path("f"));
  CHECK(after.mtime_ns > before.mtime_ns);
  CHECK(after.ctime_ns > before.ctime_ns);
}

TEST_CASE_METHOD(Deferring, "a pin taken after a punch is of the new blocks") {
  make(false);
  Held old(path("f"), 0, 4 * kBlock, End::unpin);
  REQUIRE(punch(path("f"), 0, 4 * kBlock) == 0);
  write_at(open_file(path("f"), O_WRONLY | O_DIRECT).get(), 0, pattern(4 * kBlock, 5));
  Held fresh(path("f"), 0, 4 * kBlock, End::unpin);
  CHECK(limbo() == 4 * kBlock);
  REQUIRE(punch(path("f"), 0, 4 * kBlock) == 0);
  CHECK(limbo() == 8 * kBlock);
  old.end();
  CHECK(limbo() == 4 * kBlock);
  fresh.end();
  CHECK(limbo() == 0);
}

TEST_CASE_METHOD(Deferring, "limbo ends with the mount") {
  make(false);
  Holder holder([&] { return pin_and_keep(path("f"), 0, kBlocks * kBlock); });
  REQUIRE(holder.result() == 0);
  REQUIRE(error_of(truncate(path("f").c_str(), 0)) == 0);
  CHECK(limbo() == kBlocks * kBlock);
  CHECK(error_of(umount2(path().c_str(), 0)) == EBUSY);
  // Whether the daemon still hears of the close, or finds out by itself that the holder is gone.
  holder.end();
  remount("pin_policy=defer");
  CHECK(space_becomes(empty, 0));
}

TEST_CASE_METHOD(LittleLimbo, "past limbo_limit it refuses, and changes nothing") {
  CHECK(status()["policy"]["limbo_limit"] == 65536);
  make(true);
  Held held(path("f"), 0, kBlocks * kBlock, End::unpin);
  REQUIRE(punch(path("f"), 0, 10 * kBlock) == 0);
  CHECK(limbo() == 10 * kBlock);
  const Snapshot before(path("f"));
  const std::uint64_t free_before = free();
  next_tick();
  CHECK(punch(path("f"), 10 * kBlock, 7 * kBlock) == ETXTBSY);
  CHECK(error_of(truncate(path("f").c_str(), 0)) == ETXTBSY);
  CHECK(Snapshot(path("f")) == before);
  CHECK(free() == free_before);
  CHECK(limbo() == 10 * kBlock);
  CHECK(punch(path("f"), 10 * kBlock, 6 * kBlock) == 0);  // to the limit
  CHECK(limbo() == 16 * kBlock);
  CHECK(punch(path("f"), 20 * kBlock, kBlock) == ETXTBSY);
  held.end();
  CHECK(limbo() == 0);
  CHECK(error_of(truncate(path("f").c_str(), 0)) == 0);
  CHECK(space_becomes(empty, 0));
}
