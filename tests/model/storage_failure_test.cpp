// Storage that fails in the middle of an operation while others are on their way.
#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

class FailingMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;
  void write(PoolOffset to, std::span<const std::byte> data) override {
    if (auto hook = std::exchange(before_write, {})) hook();
    if (std::exchange(lose_next, false)) {
      failed_ = true;
      return;
    }
    HeapMedium::write(to, data);
  }
  bool failed() const override { return failed_; }
  std::string failure() const override { return failed_ ? "a write was lost (a test)" : ""; }

  std::function<void()> before_write;  // once
  bool lose_next = false;

 private:
  bool failed_ = false;
};

}  // namespace

TEST_CASE("blocks of a truncate that was lost are not written to by others") {
  FailingMedium medium(ByteCount(4 << 20));
  format_medium(medium);
  const std::string of_a(8 * kBlockSize, 'a');
  const std::string of_b(8 * kBlockSize, 'b');
  InodeNumber a;
  {
    Mounted mounted(medium, mount_options(PinPolicy::refuse));
    Filesystem& fs = *mounted.fs;
    const auto made = [&](const std::string& name) {
      return *number_of(fs, fs.make_node(kRootInode, name, S_IFREG | 0644, 0, {}));
    };
    a = made("a");
    auto file_a = *fs.open(a, O_RDWR);
    auto file_b = *fs.open(made("b"), O_RDWR);
    auto filler = *fs.open(made("filler"), O_RDWR);
    REQUIRE(write(fs, *file_a, 0, of_a));
    REQUIRE(write(fs, *file_b, 0, of_b.substr(0, kBlockSize)));
    REQUIRE(truncate(fs, file_b->inode->number, of_b.size()));
    const std::uint64_t free = mounted.volume->allocator().free_blocks().value;
    REQUIRE(fs.allocate(*filler, FileOffset(0), ByteCount(free * kBlockSize), false));

    // The write has begun, and is about to look for space, when the truncate is lost on its way to
    // the journal.
    medium.before_write = [&] {
      medium.lose_next = true;
      static_cast<void>(truncate(fs, a, 0));
    };
    const auto written = write(fs, *file_b, 0, of_b);
    REQUIRE(medium.failed());
    CHECK(written == kBlockSize);
    CHECK_FALSE(fs.durable());
    fs.release(std::move(file_a));
    fs.release(std::move(file_b));
    fs.release(std::move(filler));
    fs.unmount();
  }
  HeapMedium later(medium.size());
  later.write(PoolOffset(0), std::span(medium.at(PoolOffset(0)), medium.size().value));
  Mounted again(later, mount_options(PinPolicy::refuse));
  auto file = *again.fs->open(a, O_RDONLY);
  CHECK((read(*again.fs, *file, 0, of_a.size()) == of_a));
  again.fs->release(std::move(file));
  again.fs->unmount();
}
