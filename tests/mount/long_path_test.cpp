// A file whose path is longer than a report has room for.
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

TEST_CASE("who pins a file with a long path hides nothing from whoever asks for pins") {
  Mount mount;
  // Each byte of these names takes six in JSON.
  std::string directory = mount.path();
  for (int depth = 0; depth < 11; ++depth) {
    directory += "/" + std::string(255, '\x01');
    REQUIRE(mkdir(directory.c_str(), 0755) == 0);
  }
  write_file(directory + "/deep", pattern(kBlock, 1));
  write_file(mount.path("shallow"), pattern(kBlock, 2));
  const daxfs::UniqueFd deep = open_file(directory + "/deep", O_RDWR);
  const daxfs::UniqueFd shallow = open_file(mount.path("shallow"), O_RDWR);
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  REQUIRE(daxfs_pin(deep.get(), 0, kBlock, 0, &first) == 0);
  REQUIRE(daxfs_pin(shallow.get(), 0, kBlock, 0, &second) == 0);

  const Json pins = mount.ctl("pins");
  REQUIRE(pins.size() == 2);
  const std::string shown = pins[0]["path"];
  CHECK(shown.starts_with("..."));
  CHECK(shown.ends_with("/deep"));
  CHECK(pins[0]["id"] == first);
  CHECK(pins[1]["path"] == "/shallow");
  CHECK(contains(run({"/bin/cat", mount.path(".daxfs/pins")}).out, "/shallow"));
}
