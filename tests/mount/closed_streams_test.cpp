// Programs that are started with their standard streams closed: what they say must not be written
// into what they open.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct Unmounted {
  const std::string path;
  ~Unmounted() { umount2(path.c_str(), MNT_DETACH); }
};

// All ways to leave some of them out.
constexpr const char* kClosed[] = {">&-", "<&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"};

}  // namespace

TEST_CASE("standard streams that are closed are no files of the pool's") {
  need_mounts();
  if (!pool_device().empty()) skip_here("makes pools of its own");
  TempDir dir;
  const std::string pool = dir.path("pool");
  const std::string place = dir.path("mnt");
  REQUIRE(mkdir(place.c_str(), 0755) == 0);
  const auto with = [](const std::string& command, const char* closed) {
    return run({"/bin/sh", "-c", "exec " + command + " " + closed});
  };
  const auto is_sound = [&] { return run({tool("fsck.daxfs"), "-n", pool}).code == 0; };
  for (const char* closed : kClosed) {
    INFO(closed);
    REQUIRE(with(tool("mkfs.daxfs") + " --force --size 8M " + pool, closed).code == 0);
    CHECK(is_sound());
    {
      const Unmounted at_the_end{place};
      REQUIRE(with(tool("daxfs") + " " + pool + " " + place, closed).code == 0);
      write_file(place + "/f", pattern(kBlock, 1));
      CHECK(with(tool("daxfsctl") + " status " + place, closed).code == 0);
    }
    CHECK(eventually(is_sound));  // once its daemon has ended
    CHECK(with(tool("fsck.daxfs") + " -y " + pool, closed).code == 0);
    CHECK(is_sound());
  }
}
