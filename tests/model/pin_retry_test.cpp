// A pin whose file has pages that the kernel cannot write back now: how often it is tried, on a
// kernel that limits how long a request may take as well.
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>

#include "client/daxfs.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

// Answers each time, after `delay` the first, that nothing could be written.
struct DirtyKernel : KernelCache {
  void invalidate_attributes(InodeNumber) override {}
  void invalidate_data(InodeNumber, Dropped done, Asker, End) override {
    if (asked++ == 0) std::this_thread::sleep_for(delay);
    if (done) done(clean);
  }
  void truncate_waits(InodeNumber) override {}
  void truncate_ends(InodeNumber) override {}
  void wake_poller(HolderId) override {}

  std::chrono::milliseconds delay{0};
  std::atomic<bool> clean = false;
  std::atomic<int> asked = 0;
};

}  // namespace

TEST_CASE("a pin that pages stand in the way of is tried once more, in a request's time") {
  HeapMedium medium(ByteCount(8 << 20));
  format_medium(medium);
  DirtyKernel kernel;
  std::optional<std::chrono::seconds> request_limit;
  // What comes before the pin is granted and behind it, each time.
  int most_asked = 4;
  std::uint32_t flags = 0;
  SECTION("a kernel without a limit") { kernel.delay = std::chrono::milliseconds(300); }
  SECTION("soon") { request_limit = std::chrono::hours(1); }
  SECTION("a quarter of the limit is over: the caller's next request has a time of its own") {
    kernel.delay = std::chrono::milliseconds(300);
    request_limit = std::chrono::seconds(1);
    most_asked = 2;
  }
  SECTION("a caller who does not want to wait") {
    flags = DAXFS_PIN_NOWAIT;
    most_asked = 2;
  }
  Mounted mounted(medium, mount_options(PinPolicy::refuse), &kernel, request_limit);
  Filesystem& fs = *mounted.fs;
  const auto inode = number_of(fs, fs.names().make_node(kRootInode, "f", S_IFREG | 0644, 0, {}));
  REQUIRE(inode);
  auto file = fs.files().open(*inode, O_RDWR);
  REQUIRE(file);
  REQUIRE(testing::write(fs, **file, 0, std::string(kBlockSize, 'x')));
  const PinRange range{.offset = FileOffset(0), .length = ByteCount(kBlockSize), .flags = flags};
  CHECK(pin(fs, **file, range) == fail(EAGAIN));
  CHECK(kernel.asked == most_asked);
  CHECK(fs.gate().totals().long_pins == 0);
  // Asked for again, once the kernel has written them.
  kernel.clean = true;
  CHECK(pin(fs, **file, range));
  CHECK(fs.gate().totals().long_pins == 1);
  fs.files().release(std::move(*file));
  fs.unmount();
}
