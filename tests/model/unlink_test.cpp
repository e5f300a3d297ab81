// The end of a file: how many transactions it takes, and what is left of it where.
#include <fcntl.h>
#include <sys/stat.h>

#include "blockmap/volume/check.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

class CountingMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;
  void fence() override { ++fences; }
  int fences = 0;
};

constexpr int kFencesPerCommit = 3;

struct Fixture {
  CountingMedium medium{ByteCount(8 << 20)};
  std::unique_ptr<Mounted> mounted;
  std::uint64_t free_before = 0;

  Fixture() {
    format_medium(medium);
    mounted = std::make_unique<Mounted>(medium, mount_options(PinPolicy::refuse));
    // What the root directory keeps once it has had a name.
    const Entry first = make("first");
    fs().names().forget(first.inode, 1);
    free_before = free_blocks();
  }
  Filesystem& fs() { return *mounted->fs; }
  std::uint64_t free_blocks() { return mounted->volume->allocator().free_blocks().value; }
  Entry make(const std::string& name) {
    return *fs().names().make_node(kRootInode, name, S_IFREG | 0644, 0, {});
  }
  // With some extents, so that it needs an extent block, and an attribute.
  Entry make_fragmented(const std::string& name) {
    const Entry entry = make(name);
    auto file = *fs().files().open(entry.inode, O_RDWR);
    const std::string block(kBlockSize, '\x01');
    for (std::uint64_t i = 0; i < 20; ++i) {
      REQUIRE(testing::write(fs(), *file, 2 * i * kBlockSize, block));
    }
    fs().files().release(std::move(file));
    REQUIRE(fs().xattrs().set(entry.inode, "user.x", "value", 0, testing::kRoot));
    REQUIRE(free_blocks() == free_before - 22);
    return entry;
  }
  bool on_medium(InodeNumber inode) { return mounted->volume->inodes().load(inode).has_value(); }
  template <class Action>
  int fences_of(const Action& action) {
    const int before = medium.fences;
    action();
    return medium.fences - before;
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "unlinking a file that nobody has open is one transaction") {
  const Entry file = make_fragmented("a");
  CHECK(fences_of([&] { CHECK(fs().names().unlink(kRootInode, "a")); }) == kFencesPerCommit);
  CHECK_FALSE(on_medium(file.inode));
  CHECK(free_blocks() == free_before);

  // The kernel still knows the number: nobody else may get it, and nothing comes back to the
  // medium.
  CHECK(fs().attributes().get(file.inode)->st_nlink == 0);
  CHECK(make("b").inode != file.inode);
  CHECK(fs().files().open(file.inode, O_RDONLY).error().code == ESTALE);
  CHECK(fs().xattrs().set(file.inode, "user.x", "again", 0, testing::kRoot).error().code == ESTALE);
  CHECK(fs().xattrs().get(file.inode, "user.x").error().code == ENODATA);
  AttributeChange change;
  change.mode = 0600;
  CHECK(set_attributes(fs(), file.inode, change).error().code == ESTALE);
  CHECK_FALSE(on_medium(file.inode));

  CHECK(fences_of([&] { fs().names().forget(file.inode, 1); }) == 0);
  const Entry again = make("c");
  CHECK(again.inode == file.inode);
  CHECK(again.generation == file.generation + 1);
}

TEST_CASE_METHOD(Fixture, "the last close of an unlinked file is one transaction") {
  const Entry file = make_fragmented("a");
  auto opened = *fs().files().open(file.inode, O_RDONLY);
  CHECK(fs().names().unlink(kRootInode, "a"));
  CHECK(on_medium(file.inode));  // an orphan, should we crash now
  CHECK(free_blocks() == free_before - 22);
  CHECK(fences_of([&] { fs().files().release(std::move(opened)); }) == kFencesPerCommit);
  CHECK_FALSE(on_medium(file.inode));
  CHECK(free_blocks() == free_before);
}

TEST_CASE_METHOD(Fixture, "a rename frees what it replaces in its own transaction") {
  const Entry file = make_fragmented("a");
  make("b");
  CHECK(fences_of([&] { CHECK(rename(fs(), kRootInode, "b", kRootInode, "a", 0)); }) ==
        kFencesPerCommit);
  CHECK_FALSE(on_medium(file.inode));
  CHECK(free_blocks() == free_before);
}

TEST_CASE_METHOD(Fixture, "a removed directory leaves nothing, also if it is listed afterwards") {
  const Entry directory = *fs().names().make_directory(kRootInode, "d", 0755, {});
  CHECK(fences_of([&] { CHECK(fs().names().remove_directory(kRootInode, "d")); }) ==
        kFencesPerCommit);
  CHECK(fs().names().read_directory(directory.inode, 0, [](const auto&) {
    FAIL("nothing is in it");
    return false;
  }));
  CHECK_FALSE(on_medium(directory.inode));
  fs().unmount();
  mounted.reset();
  const CheckReport report = check_volume(medium, "pool");
  for (const std::string& error : report.errors) UNSCOPED_INFO(error);
  CHECK(report.ok());
}
