// pin_policy=ignore: frees at once, and the holder catches the corruption. The counterpart of what
// the other policies prevent.
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 64;

struct Ignoring : Mount {
  Ignoring() : Mount({.size = "8M+", .options = "pin_policy=ignore,unsafe_demo"}) {
    write_file(path("f"), "");
    write_file(path("source"), "");
    empty = free();
  }
  // One file takes all that is free, so also what was just freed.
  void fill_pool() {
    const daxfs::UniqueFd fd = open_file(path("filler"), O_WRONLY | O_CREAT | O_DIRECT);
    const std::string data = pattern(1 << 20, 99);
    off_t at = 0;
    for (ssize_t done = 0; (done = pwrite(fd.get(), data.data(), data.size(), at)) > 0;) at += done;
    CHECK(errno == ENOSPC);
  }
  std::uint64_t empty = 0;
};

}  // namespace

TEST_CASE_METHOD(Ignoring, "the freed blocks are reused under the holder, who sees it") {
  for (const Detach& detach : kDetaches) {
    if (detach.replaces)
      continue;  // the holder has that file open: nothing is freed before it goes
    INFO(detach.name);
    write_file(path("f"), pattern(kBlocks * kBlock, 1));
    HoldProcess holder(path("f"), 0, kBlocks * kBlock, {"--read-only"});
    REQUIRE(detach.act(*this) == 0);
    CHECK(free() == empty);
    CHECK(limbo() == 0);
    fill_pool();
    const Finished ended = holder.stop();
    CHECK(ended.code == 3);
    CHECK(ended.err.find("foreign bytes") != std::string::npos);
    REQUIRE(unlink(path("filler").c_str()) == 0);
    REQUIRE(truncate(path("f").c_str(), 0) == 0);
    CHECK(space_becomes(empty, 0));
  }
}

TEST_CASE_METHOD(Ignoring, "a holder that writes finds other bytes, and spoils the other file") {
  write_file(path("f"), pattern(kBlocks * kBlock, 1));
  HoldProcess holder(path("f"), 0, kBlocks * kBlock);
  REQUIRE(error_of(truncate(path("f").c_str(), 0)) == 0);
  fill_pool();
  // It names what it saw at once, and goes on.
  CHECK(eventually([&] { return !holder.process().err().empty(); }));
  CHECK(holder.process().running());
  const Finished ended = holder.stop();
  CHECK(ended.code == 3);
}

TEST_CASE_METHOD(Ignoring, "without a detach, nothing happens under this policy either") {
  write_file(path("f"), pattern(kBlocks * kBlock, 1));
  HoldProcess holder(path("f"), 0, kBlocks * kBlock);
  fill_pool();
  const Finished ended = holder.stop();
  INFO(ended.err);
  CHECK(ended.code == 0);
}
