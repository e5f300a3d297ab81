// pin_policy=refuse: a detach that meets a pin fails with ETXTBSY and has changed nothing.
#include <unistd.h>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 24;

struct Range {
  const char* name;
  std::uint64_t first;
  std::uint64_t count;  // blocks
};
constexpr std::array kRanges{Range{"all", 0, kBlocks}, Range{"part", 5, 4},
                             Range{"one block", 23, 1}};

struct Refusing : Mount {
  Refusing() {
    write_file(path("source"), "");
    write_file(path("f"), "");
    empty = free();
  }
  void make(bool fragmented) { make_victim(*this, kBlocks, fragmented); }
  // All that is promised of a refusal.
  void check_refused(const std::function<int()>& detach) {
    const Snapshot before(path("f"));
    const Snapshot source(path("source"));
    const std::uint64_t free_before = free();
    next_tick();
    CHECK(detach() == ETXTBSY);
    CHECK(Snapshot(path("f")) == before);
    CHECK(Snapshot(path("source")) == source);
    CHECK(free() == free_before);
    CHECK(limbo() == 0);
  }
  std::uint64_t empty = 0;  // free, with both files empty
};

}  // namespace

TEST_CASE_METHOD(Refusing, "every detach is refused while any of the file is pinned") {
  for (const bool fragmented : {false, true}) {
    for (const Range& range : kRanges) {
      for (std::size_t i = 0; i < kDetaches.size(); ++i) {
        const Detach& detach = kDetaches[i];
        const End end = kEnds[i % kEnds.size()];
        INFO(detach.name << ", pinned: " << range.name << ", fragmented: " << fragmented
                         << ", until: " << name_of(end));
        make(fragmented);
        Held held(path("f"), range.first * kBlock, range.count * kBlock, end);
        check_refused([&] { return detach.act(*this); });
        held.end();
        // A close, or a death, is heard of a little later.
        REQUIRE(eventually([&] { return detach.act(*this) != ETXTBSY; }));
        held.close();
        CHECK(status_of(path("f")).st_blocks == 0);
        CHECK(space_becomes(empty, 0));
      }
    }
  }
}

TEST_CASE_METHOD(Refusing, "every way to end a pin makes room for the detach") {
  for (const End end : kEnds) {
    INFO(name_of(end));
    make(true);
    Held held(path("f"), 0, kBlocks * kBlock, end);
    check_refused([&] { return kDetaches[0].act(*this); });
    held.end();
    REQUIRE(eventually([&] { return kDetaches[0].act(*this) != ETXTBSY; }));
    CHECK(space_becomes(empty, 0));
    CHECK(status()["pins"]["long"] == 0);
  }
}

TEST_CASE_METHOD(Refusing, "a punch is judged by its own range, all or nothing") {
  make(true);
  Held held(path("f"), 10 * kBlock, kBlock, End::unpin);
  check_refused([&] { return punch(path("f"), 0, kBlocks * kBlock); });
  check_refused([&] { return punch(path("f"), 100, 11 * kBlock); });
  check_refused([&] { return punch(path("f"), 10 * kBlock, kBlock); });
  check_refused([&] { return error_of(truncate(path("f").c_str(), 10 * kBlock - 1)); });
  check_refused([&] { return error_of(truncate(path("f").c_str(), 10 * kBlock)); });

  // Around it, everything is allowed.
  const std::uint64_t full = free();
  CHECK(punch(path("f"), 0, 10 * kBlock) == 0);
  CHECK(punch(path("f"), 11 * kBlock, 4 * kBlock) == 0);
  CHECK(error_of(truncate(path("f").c_str(), 20 * kBlock)) == 0);
  CHECK(free() == full + 18 * kBlock);
  CHECK(data_parts(path("f")) == Parts{{10 * kBlock, 11 * kBlock}, {15 * kBlock, 20 * kBlock}});
}

TEST_CASE_METHOD(Refusing, "what takes no block away is no detach") {
  make(false);
  const std::string data = pattern(kBlocks * kBlock, 1);
  const daxfs::UniqueFd holder = open_file(path("f"), O_RDONLY);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(holder.get(), 0, kBlocks * kBlock, 0, &pin) == 0);
  const auto extents = extents_of(holder.get());
  const std::uint64_t full = free();
  const daxfs::UniqueFd fd = open_file(path("f"), O_RDWR);

  write_at(fd.get(), 0, pattern(3 * kBlock, 2));
  CHECK(punch(path("f"), 3 * kBlock + 1, kBlock - 1) == 0);  // within a block: zeroes
  CHECK(error_of(fallocate(fd.get(), FALLOC_FL_ZERO_RANGE, 5 * kBlock, 2 * kBlock)) == 0);
  CHECK(error_of(ftruncate(fd.get(), kBlocks * kBlock - 10)) == 0);
  CHECK(error_of(ftruncate(fd.get(), 1ll << 40)) == 0);
  CHECK(error_of(fallocate(fd.get(), 0, 0, kBlocks * kBlock)) == 0);
  CHECK(punch(path("f"), 1ull << 30, 1ull << 30) == 0);  // a hole
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(free() == full);

  std::string expected = data;
  expected.replace(0, 3 * kBlock, pattern(3 * kBlock, 2));
  expected.replace(3 * kBlock + 1, kBlock - 1, std::string(kBlock - 1, '\0'));
  expected.replace(5 * kBlock, 2 * kBlock, std::string(2 * kBlock, '\0'));
  expected.replace(kBlocks * kBlock - 10, 10, std::string(10, '\0'));
  CHECK(difference(read_at(fd.get(), 0, kBlocks * kBlock), expected) == "");
  const auto now = extents_of(holder.get());
  REQUIRE(now.size() == extents.size());
  CHECK(now[0].pool_offset == extents[0].pool_offset);
  CHECK(now[0].pins == 1);
}

TEST_CASE_METHOD(Refusing, "a name that is not the last one may be replaced") {
  make(false);
  REQUIRE(link(path("f").c_str(), path("other").c_str()) == 0);
  Held held(path("f"), 0, kBlock, End::unpin);
  CHECK(error_of(rename(path("source").c_str(), path("f").c_str())) == 0);
  write_file(path("source"), "");
  CHECK(error_of(rename(path("source").c_str(), path("other").c_str())) == ETXTBSY);
  CHECK(difference(read_file(path("other")), pattern(kBlocks * kBlock, 1)) == "");
  CHECK(error_of(renameat2(AT_FDCWD, path("source").c_str(), AT_FDCWD, path("other").c_str(),
                           RENAME_EXCHANGE)) == 0);
}

TEST_CASE_METHOD(Refusing, "unlink is no detach; the blocks stay with the holder until its close") {
  for (const End end : kEnds) {
    INFO(name_of(end));
    make(true);
    const std::uint64_t full = free();
    Held held(path("f"), kBlock, 3 * kBlock, end);
    REQUIRE(unlink(path("f").c_str()) == 0);
    write_file(path("f"), "");
    CHECK(space_becomes(full, 0));
    held.end();
    held.close();
    CHECK(space_becomes(empty, 0));
  }
}

TEST_CASE_METHOD(Refusing, "the last of several pins decides") {
  make(false);
  Held first(path("f"), 0, 8 * kBlock, End::unpin);
  Held second(path("f"), 7 * kBlock, 8 * kBlock, End::close);
  Held third(path("f"), 7 * kBlock, kBlock, End::kill);
  CHECK(status()["pins"]["long"] == 3);
  first.end();
  check_refused([&] { return punch(path("f"), 7 * kBlock, kBlock); });
  second.end();
  CHECK(eventually([&] { return status()["pins"]["long"] == 1; }));
  check_refused([&] { return punch(path("f"), 7 * kBlock, kBlock); });
  CHECK(punch(path("f"), 8 * kBlock, kBlock) == 0);
  third.end();
  CHECK(eventually([&] { return punch(path("f"), 7 * kBlock, kBlock) == 0; }));
}
