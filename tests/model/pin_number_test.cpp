// The numbers of pins are no secret: whoever shares an open file can guess the next one.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "blockmap/volume/check.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

TEST_CASE("a thread gives pins back that another one is still taking", "[model]") {
  HeapMedium medium(ByteCount(8 << 20));
  format_medium(medium);
  {
    Mounted mounted(medium, mount_options(PinPolicy::refuse));
    Filesystem& fs = *mounted.fs;
    const auto inode = number_of(fs, fs.names().make_node(kRootInode, "f", S_IFREG | 0644, 0, {}));
    REQUIRE(inode);
    auto file = fs.files().open(*inode, O_RDWR);
    REQUIRE(file);
    REQUIRE(testing::write(fs, **file, 0, std::string(kBlockSize, 'x')));
    // A caller who can be named, so that the pin is recorded.
    Caller caller = kRoot;
    caller.thread = ::getpid();
    caller.uid = ::getuid();
    std::atomic<std::uint64_t> next = 1;
    std::atomic<bool> over = false;
    std::thread guessing([&] {
      while (!over) static_cast<void>(unpin(fs, **file, PinId{next}));
    });
    for (int i = 0; i < 3000; ++i) {
      const auto pin = wait_for<Result<PinId>>([&](auto done) {
        fs.pins().pin(**file,
                      {.offset = FileOffset(0), .length = ByteCount(kBlockSize), .flags = 0},
                      caller, nullptr, std::move(done));
      });
      if (!pin) {
        FAIL_CHECK(strerrorname_np(pin.error().code));
        break;
      }
      next = pin->value + 1;
      static_cast<void>(unpin(fs, **file, *pin));
    }
    over = true;
    guessing.join();
    fs.files().release(std::move(*file));
    fs.unmount();
  }
  const CheckReport report = check_volume(medium, "pool");
  CHECK(report.ok());
}
