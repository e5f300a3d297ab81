// A rename that would have to wait, of a user who has as many requests waiting as may be.
#include <fcntl.h>
#include <sys/stat.h>

#include <future>
#include <memory>

#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

TEST_CASE("a rename that may not wait is refused, and not tried for ever", "[model]") {
  HeapMedium medium(ByteCount(8 << 20));
  format_medium(medium);
  MountOptions options = mount_options(PinPolicy::wait);
  options.gate.user_limit = 1;
  Mounted mounted(medium, options);
  Filesystem& fs = *mounted.fs;
  const auto made = [&](const char* name) {
    return *number_of(fs, fs.names().make_node(kRootInode, name, S_IFREG | 0644, 0, kRoot));
  };
  const InodeNumber pinned = made("pinned");
  const InodeNumber source = made("source");
  auto file = *fs.files().open(pinned, O_RDWR);
  REQUIRE(testing::write(fs, *file, 0, std::string(kBlockSize, 'x')));
  const auto held =
      pin(fs, *file, {.offset = FileOffset(0), .length = ByteCount(kBlockSize), .flags = 0});
  REQUIRE(held);

  const Caller stranger{.uid = 12345, .gid = 12345};
  const auto cancellation = std::make_shared<Cancellation>();
  std::promise<Result<struct stat>> truncated;
  AttributeChange change;
  change.size = 0;
  fs.attributes().set(pinned, change, {}, stranger, cancellation,
                      [&](const Result<struct stat>& answer) { truncated.set_value(answer); });

  const auto renamed = wait_for<Status>([&](auto done) {
    fs.renames().rename(
        {kRootInode, "source", kRootInode, "pinned", 0}, stranger, [] { return nullptr; },
        std::move(done));
  });
  CHECK(renamed == fail(EAGAIN));
  const auto still = fs.names().lookup(kRootInode, "source");
  REQUIRE(still);
  CHECK(still->inode == source);
  fs.names().forget(still->inode, 1);

  cancellation->cancel();
  CHECK(truncated.get_future().get().error().code == EINTR);
  REQUIRE(unpin(fs, *file, *held));
  fs.files().release(std::move(file));
  fs.unmount();
}
