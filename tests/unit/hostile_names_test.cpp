// Changing a mounted tree whose names are damaged in a way that no checksum tells: nothing waits
// for itself, and what a name has lost is not lost again.
#include <dirent.h>

#include "src/filesystem.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

struct HostileNames : SmallTree {
  HostileNames() {
    add_name(root, "root", kRootInode, DT_DIR);
    add_name(sub, "self", sub.number, DT_DIR);
    add_name(sub, "file", file.number, DT_REG);  // its count says that it has one name
    add_name(deep, "above", sub.number, DT_DIR);
    loop.record.parent = below.number.value;  // and below's is loop
    commit_record(*volume, loop);
    volume->close_clean();
    mounted.emplace(*medium, daxfs::testing::mount_options(PinPolicy::refuse));
  }
  ~HostileNames() { mounted->fs->unmount(); }
  Filesystem& fs() { return *mounted->fs; }
  int rename(InodeNumber from, const char* name, InodeNumber to, const char* new_name) {
    const Status renamed = daxfs::testing::rename(fs(), from, name, to, new_name, 0);
    return renamed ? 0 : renamed.error().code;
  }

  OpenInode loop = create(*volume, sub, "loop", S_IFDIR | 0755);
  OpenInode below = create(*volume, loop, "below", S_IFDIR | 0755);
  OpenInode leaf = create(*volume, loop, "leaf", S_IFREG | 0644);

  std::optional<daxfs::testing::Mounted> mounted;
};

int code(const Status& status) { return status ? 0 : status.error().code; }

}  // namespace

TEST_CASE_METHOD(HostileNames,
                 "a directory that has a name in itself cannot be removed or renamed") {
  CHECK(code(fs().names().remove_directory(sub.number, "self")) == EUCLEAN);
  CHECK(code(fs().names().remove_directory(kRootInode, "root")) == EUCLEAN);
  CHECK(rename(sub.number, "self", sub.number, "other") == EUCLEAN);
  CHECK(rename(sub.number, "self", kRootInode, "other") == EUCLEAN);
  CHECK(rename(sub.number, "deep", sub.number, "self") == EUCLEAN);
  CHECK(rename(kRootInode, "sub", kRootInode, "root") == EUCLEAN);
  CHECK(fs().names().lookup(sub.number, "deep").has_value());
}

TEST_CASE_METHOD(HostileNames, "a directory is not reached by a name in another than its parent") {
  CHECK(code(fs().names().remove_directory(deep.number, "above")) == EUCLEAN);
  CHECK(fs().names().lookup(deep.number, "above").error().code == EUCLEAN);
  CHECK(fs().names().entry_of(sub.number, deep.number, "above").error().code == EUCLEAN);
  CHECK(rename(deep.number, "above", kRootInode, "other") == EUCLEAN);
  CHECK(rename(kRootInode, "sub", deep.number, "above") == EUCLEAN);
  CHECK(fs().names().lookup(kRootInode, "sub").has_value());
}

TEST_CASE_METHOD(HostileNames, "directories that are each other's parents are not locked in turn") {
  CHECK(fs().names().lookup(sub.number, "loop").error().code == EUCLEAN);
  // Who has their numbers from before.
  CHECK(rename(loop.number, "leaf", below.number, "x") == EUCLEAN);
  CHECK(fs().names().lookup(loop.number, "leaf").has_value());
}

TEST_CASE_METHOD(HostileNames, "listing it asks nothing of a directory that is being listed") {
  bool seen = false;
  REQUIRE(fs().names().read_directory(sub.number, 2, [&](const Names::DirectoryEntry& entry) {
    if (entry.name != "self") return true;
    seen = true;
    const auto child = fs().names().entry_of(entry.inode, sub.number, entry.name);
    CHECK((!child && child.error().code == EUCLEAN));
    return true;
  }));
  CHECK(seen);
}

TEST_CASE_METHOD(HostileNames, "a file with too many names ends once") {
  REQUIRE(fs().names().lookup(deep.number, "file"));  // somebody knows it
  REQUIRE(fs().names().unlink(deep.number, "file"));
  CHECK(code(fs().names().unlink(sub.number, "file")) == EUCLEAN);
  CHECK(code(daxfs::testing::rename(fs(), sub.number, "file", sub.number, "other", 0)) == EUCLEAN);
  // Its slot stays empty.
  CHECK(medium->load<pmem::InodeRecord>(volume->inodes().slot(file.number)).mode == 0);
  fs().names().forget(file.number, 1);
}
