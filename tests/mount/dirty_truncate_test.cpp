// While a truncate waits, the kernel writes no page of its file (FUSE_NOWRITE), so whoever wants to
// drop a dirty one has to wait for the truncate. Nobody that it waits for may do that.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;

// A holder that is told by files what to do next.
struct DirtyFile : Mount {
  DirtyFile() : Mount({.options = "pin_policy=wait"}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
    write_file(other, pattern(kBlock, 2));
  }
  void say(const std::string& word) const { write_file(beside(word), ""); }
  bool hear(const std::string& word) const {
    return eventually([&] { return std::filesystem::exists(beside(word)); });
  }
  // A page of its mapping is dirty: for each file a page, and pins for writing.
  int hold() const {
    const daxfs::UniqueFd fd(open(file.c_str(), O_RDWR | O_CLOEXEC));
    const daxfs::UniqueFd second(open(other.c_str(), O_RDWR | O_CLOEXEC));
    void* const view =
        mmap(nullptr, kBlocks * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    void* const cached = mmap(nullptr, kBlock, PROT_READ, MAP_SHARED, second.get(), 0);
    if (view == MAP_FAILED || cached == MAP_FAILED) return errno;
    std::memset(static_cast<char*>(view) + 5 * kBlock, 'd', 3 * kBlock);
    volatile const char seen = *static_cast<const char*>(cached);
    static_cast<void>(seen);
    std::uint64_t first = 0, last = 0, elsewhere = 0;
    if (daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE, &first) != 0 ||
        daxfs_pin(fd.get(), kBlock, kBlock, DAXFS_PIN_WRITE, &last) != 0 ||
        daxfs_pin(second.get(), 0, kBlock, DAXFS_PIN_WRITE, &elsewhere) != 0) {
      return errno;
    }
    say("ready");
    if (!hear("give way")) return ETIMEDOUT;
    if (daxfs_unpin(fd.get(), first) != 0 || daxfs_unpin(second.get(), elsewhere) != 0)
      return errno;
    say("one is given back");
    if (!hear("give way altogether")) return ETIMEDOUT;
    return error_of(daxfs_unpin(fd.get(), last));
  }
  const std::string file = path("f");
  const std::string other = path("other");
};

}  // namespace

TEST_CASE_METHOD(DirtyFile, "a holder with dirty pages gives way to a truncate, a pin at a time") {
  Attempt holder([this] { return hold(); });
  REQUIRE(hear("ready"));
  // Behind the holder, so that it is killed first if the two should block each other.
  Attempt truncating([this] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  say("give way");
  REQUIRE(hear("one is given back"));
  CHECK(truncating.running());
  say("give way altogether");
  CHECK(truncating.finish() == 0);
  CHECK(holder.finish() == 0);
  CHECK(status_of(file).st_size == 0);
  CHECK(live_status(*this)["pins"]["long"] == 0);
}

TEST_CASE_METHOD(DirtyFile, "the daemon ends on a signal, whatever pages are to be dropped") {
  Attempt holder([this] { return hold(); });
  REQUIRE(hear("ready"));
  Attempt truncating([this] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  say("give way");
  REQUIRE(hear("one is given back"));  // its pages are to be dropped when the truncate has ended
  REQUIRE(::kill(daemon(), SIGTERM) == 0);
  CHECK(truncating.finish() != 0);
  const Finished ended = daemon_ends();
  INFO(ended.err);
  CHECK_FALSE(ended.timed_out);
  CHECK(ended.code == 0);
  holder.signal(SIGKILL);
  static_cast<void>(holder.finish());
  mount();
  // A grace, if other programs of the machine have pages pinned.
  CHECK(eventually([this] { return live_status(*this)["pins"]["long"] == 0; }));
}

TEST_CASE_METHOD(DirtyFile,
                 "a pin over pages that cannot be written yet comes behind the truncate") {
  Attempt holder([this] {
    const daxfs::UniqueFd fd(open(file.c_str(), O_RDWR | O_CLOEXEC));
    std::uint64_t pin = 0;
    if (daxfs_pin(fd.get(), 5 * kBlock, kBlock, 0, &pin) != 0) return errno;
    say("ready");
    return hear("give way") ? 0 : ETIMEDOUT;
  });
  REQUIRE(hear("ready"));
  const daxfs::UniqueFd fd(open(file.c_str(), O_RDWR | O_CLOEXEC));
  void* const view =
      mmap(nullptr, kBlocks * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  REQUIRE(view != MAP_FAILED);
  Attempt truncating([this] { return shrink(file, 4 * kBlock); });
  REQUIRE(waiting_becomes(*this, 1));
  static_cast<char*>(view)[kBlock] = 'd';  // far from what the truncate takes
  std::uint64_t pin = 0;
  CHECK(daxfs_pin(fd.get(), kBlock, kBlock, DAXFS_PIN_NOWAIT, &pin) == -1);
  CHECK(errno == EAGAIN);
  Attempt pinning([this] {
    const daxfs::UniqueFd own(open(file.c_str(), O_RDWR | O_CLOEXEC));
    std::uint64_t late = 0;
    std::size_t length = 0;
    if (daxfs_pin(own.get(), kBlock, kBlock, DAXFS_PIN_WRITE, &late) != 0) return errno;
    const auto* const seen = static_cast<const char*>(daxfs_map(own.get(), late, &length));
    if (seen == nullptr) return errno;
    return seen[0] == 'd' ? 0 : EIO;
  });
  REQUIRE(waiting_becomes(*this, 2));
  say("give way");
  CHECK(holder.finish() == 0);
  CHECK(truncating.finish() == 0);
  CHECK(pinning.finish() == 0);
  munmap(view, kBlocks * kBlock);
}
