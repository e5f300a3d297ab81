#include "blockmap/volume/check.h"

#include <dirent.h>

#include "blockmap/volume/detach.h"
#include "blockmap/xattr.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

struct Fixture : SmallTree {
  void require_error(const std::string& part) {
    const CheckReport report = check_volume(*medium, "test.pool");
    bool found = false;
    for (const std::string& error : report.errors) {
      UNSCOPED_INFO(error);
      found = found || error.find(part) != std::string::npos;
    }
    REQUIRE(found);
  }
  static std::string inode(const OpenInode& i) { return "inode " + std::to_string(i.number.value); }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "a sound pool is reported as it is") {
  map_blocks(*volume, file, {0, 1, 2, 10, 20, 30, 40});
  const CheckReport report = check_volume(*medium, "test.pool");
  for (const std::string& error : report.errors) UNSCOPED_INFO(error);
  CHECK(report.ok());
  CHECK(report.files == 1);
  CHECK(report.directories == 3);
  CHECK(report.data_blocks == 7 + 3);
  CHECK(report.free_blocks == volume->allocator().free_blocks().value);
  // An extent block, the other superblock, and all before the data area.
  CHECK(report.metadata_blocks == 1 + 1 + volume->superblock().data_start);
}

TEST_CASE_METHOD(Fixture, "hard links are counted") {
  add_name(root, "again", file.number, DT_REG);
  require_error(inode(file) + ": says 1 links, but 2 names refer to it");
  file.record.links = 2;
  commit_record(*volume, file);
  CHECK(check_volume(*medium, "test.pool").ok());
}

TEST_CASE_METHOD(Fixture, "wrong names are found") {
  SECTION("of nothing") {
    add_name(root, "ghost", InodeNumber(500), DT_REG);
    require_error("inode 1: the entry \"ghost\" refers to inode 500, which is not in use");
  }
  SECTION("of an impossible inode") {
    add_name(root, "ghost", InodeNumber(1ull << 50), DT_REG);
    require_error("which is not in use");
  }
  SECTION("of another type") {
    file.record.links = 2;
    commit_record(*volume, file);
    add_name(root, "odd", file.number, DT_LNK);
    require_error("the entry \"odd\" has another type");
  }
  SECTION("missing") {
    unlink(*volume, deep, "file", nullptr);
    require_error(inode(file) + ": says 1 links, but 0 names refer to it");
  }
  SECTION("of an orphan") {
    file.record.links = 0;
    commit_record(*volume, file);
    require_error(inode(file) + ": says 0 links, but 1 names refer to it");
  }
}

TEST_CASE_METHOD(Fixture, "a wrong tree is found") {
  SECTION("links of a directory") {
    sub.record.links = 2;
    commit_record(*volume, sub);
    require_error(inode(sub) + ": says 2 links, but is a directory with 1 subdirectories");
  }
  SECTION("parent") {
    deep.record.parent = 1;
    commit_record(*volume, deep);
    require_error("the entry \"deep\" is a directory whose parent says inode 1");
  }
  SECTION("parent of the root") {
    root.record.parent = sub.number.value;
    commit_record(*volume, root);
    require_error("inode 1: the root directory has a parent");
  }
  SECTION("a second name of a directory") {
    add_name(root, "second", deep.number, DT_DIR);
    require_error(inode(deep) + ": 2 names refer to the directory instead of 1");
  }
  SECTION("a name of the root") {
    add_name(deep, "root", kRootInode, DT_DIR);
    require_error("inode 1: 1 names refer to the directory instead of 0");
  }
  SECTION("unreachable") {
    unlink(*volume, root, "sub", nullptr);
    require_error(inode(sub) + ": the directory cannot be reached from the root");
    require_error(inode(deep) + ": the directory cannot be reached from the root");
  }
  SECTION("a loop") {
    unlink(*volume, root, "sub", nullptr);
    --root.record.links;
    commit_record(*volume, root);
    add_name(deep, "sub", sub.number, DT_DIR);
    ++deep.record.links;
    commit_record(*volume, deep);
    sub.record.parent = deep.number.value;
    commit_record(*volume, sub);
    require_error(inode(sub) + ": the directory cannot be reached from the root");
    require_error(inode(deep) + ": the directory cannot be reached from the root");
  }
  SECTION("removed, but not empty") {
    unlink(*volume, sub, "deep", nullptr);
    --sub.record.links;
    commit_record(*volume, sub);
    deep.record.links = 0;
    commit_record(*volume, deep);
    require_error(inode(deep) + ": the directory is removed, but not empty");
  }
}

TEST_CASE_METHOD(Fixture, "wrong content is found") {
  SECTION("block count") {
    map_blocks(*volume, file, {0, 1});
    file.record.blocks = 3;
    commit_record(*volume, file);
    require_error(inode(file) + ": says 3 blocks, but has 2");
  }
  SECTION("directory size") {
    sub.record.size = 2 * kBlockSize;
    commit_record(*volume, sub);
    require_error(inode(sub) + ": the directory says 8192 bytes, but has 4096");
  }
  SECTION("attributes") {
    std::vector<PoolRange> released;
    REQUIRE(replace_xattrs(*medium, volume->allocator(), file.number, file.record,
                           {{"user.a", "b"}}, released));
    commit_record(*volume, file);
    CHECK(check_volume(*medium, "test.pool").ok());
    flip_bit(*medium, offset_of(PoolBlock(file.record.xattr_block)) + ByteCount(40), 0);
    require_error(inode(file) + ": its extended attributes are damaged");
  }
  SECTION("a directory's entries") {
    const PoolRange block = deep.map->physical(to_end(FileBlock(0))).front();
    flip_bit(*medium, offset_of(block.start) + ByteCount(17), 0);
    require_error(inode(deep) + ": the directory is damaged");
  }
  SECTION("what open() refuses") {
    flip_bit(*medium, volume->inodes().slot(file.number) + ByteCount(8), 0);
    require_error("test.pool: " + inode(file) + ": checksum does not match");
  }
}
