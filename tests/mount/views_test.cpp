// A few thousand random changes through every view of a file; tests/soak/run views does millions,
// beside ext4.
#include <sys/utsname.h>

#include <cstdio>
#include <exception>
#include <string>

#include "tests/mount/mount_fixture.h"
#include "tests/mount/views_run.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

// Before, O_DIRECT of a FUSE file does not look for dirty pages, nor can it be mapped shared.
bool kernel_keeps_views_together() {
  utsname name{};
  unsigned major = 0, minor = 0;
  uname(&name);
  return std::sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 6));
}

void see_all_views(bool defers, const std::string& cache) {
  need_mounts();
  if (!kernel_keeps_views_together()) skip_here("needs Linux 6.6");
  Mount mount(
      {.options = (defers ? "pin_policy=defer,cache=" : "pin_policy=refuse,cache=") + cache});
  const TempDir beside;
  const ViewsSetup setup{.subject = mount.path(),
                         .oracle = beside.path("."),
                         .defers = defers,
                         .seed = GENERATE(1u, 2u),
                         .operations = 6000,
                         .keeps_writes = cache == "writeback",
                         .sees_unwritten = false};
  std::string difference;
  try {
    run_views(setup);
  } catch (const std::exception& found) {
    difference = found.what();
  }
  INFO(difference);
  CHECK(difference.empty());
}

}  // namespace

TEST_CASE("every view of a file shows the same: page cache, O_DIRECT, mappings and pins") {
  see_all_views(GENERATE(false, true), "through");
}

TEST_CASE("with cache=writeback every view of a file shows the same") {
  see_all_views(GENERATE(false, true), "writeback");
}

TEST_CASE("with cache=none every view of a file shows the same") { see_all_views(false, "none"); }

}  // namespace daxfs::test
