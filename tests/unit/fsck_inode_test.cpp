// Damage to single inodes, and what fsck makes of it.
#include "tests/unit/fsck_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

TEST_CASE_METHOD(FsckFixture, "fsck: a sound pool is not written to") {
  const auto before = copy_of(*medium);
  const fsck::Report report = run();
  CHECK(report.findings.empty());
  CHECK(report.files == 2);
  CHECK(report.directories == 3);
  CHECK(std::memcmp(before->at(PoolOffset(0)), medium->at(PoolOffset(0)), medium->size().value) ==
        0);
}

TEST_CASE_METHOD(FsckFixture, "fsck: one flipped bit costs nothing, wherever it is") {
  struct Place {
    PoolOffset at;
    std::uint64_t bytes;
    Code code;
  };
  const std::vector<Place> places = {
      {PoolOffset(0), sizeof(pmem::Superblock), Code::superblock},
      {offset_of(superblock_b(*medium)), sizeof(pmem::Superblock), Code::superblock},
      {offset_of(kStateBlock), sizeof(pmem::PoolState), Code::pool_state},
      {slot(file) + ByteCount(8), pmem::kInodeCrcBytes - 8, Code::inode_record},
      {extent_slot(file, 1), sizeof(pmem::ExtentRecord), Code::extent_record},
      {offset_of(PoolBlock(file.record.extent_block)), 32, Code::extent_chain},
      {offset_of(first_block(deep)), 16 + 4, Code::entry_damaged},
  };
  for (const Place& place : places) {
    // A repair ends with a mount, which counts itself in the pool state.
    const auto before = copy_of(*medium);
    const bool counted = place.code == Code::pool_state;
    for (std::uint64_t bit = 0; bit < 8 * place.bytes; bit += 7) {
      flip_bit(*medium, place.at + ByteCount(bit / 8), bit % 8);
      const fsck::Report report = run();
      INFO("bit " << bit);
      REQUIRE(has(report, place.code, Severity::repairable));
      REQUIRE(report.count(Severity::loss) == 0);
      if (counted) {
        REQUIRE(medium->load<pmem::PoolState>(place.at).inode_chunks == 1);
      } else {
        REQUIRE(std::memcmp(before->at(place.at), medium->at(place.at), place.bytes) == 0);
      }
    }
  }
  check_content(file, {0, 2, 4, 6, 8});
}

TEST_CASE_METHOD(FsckFixture, "fsck: a record that is destroyed") {
  SECTION("keeps its data, if its extents are there") {
    zero(slot(file) + ByteCount(4), 60);
    require_repaired(Code::inode_record, Severity::loss);
    check_content(file, {0, 2, 4});
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
  SECTION("of a directory keeps its entries") {
    zero(slot(deep) + ByteCount(4), 60);
    require_repaired(Code::inode_record, Severity::loss);
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
  SECTION("with its extents is removed, and its name") {
    zero(slot(file) + ByteCount(16), 240);
    const auto report = require_repaired(Code::inode_record, Severity::loss);
    CHECK(has(report, Code::entry_dangling, Severity::loss));
    CHECK_FALSE(find({"sub", "deep", "file"}));
  }
  SECTION("that was free is emptied") {
    const InodeNumber free(500);
    put(volume->inodes().slot(free) + ByteCount(24), std::uint64_t{77});
    require_repaired(Code::free_slot, Severity::repairable);
  }
  SECTION("of the root directory: what was in it is found again") {
    zero(slot(root), pmem::kInodeBytes);
    require_repaired(Code::root, Severity::loss);
    CHECK(find({"lost+found", lost_name(sub), "deep", "file"}) == file.number);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: well-sealed nonsense in a record") {
  SECTION("file type") {
    forge_record(file, [](auto& r) { r.mode = 0777; });
    require_repaired(Code::inode_record, Severity::loss);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("size") {
    forge_record(file, [](auto& r) { r.size = ~0ull; });
    require_repaired(Code::inode_fields, Severity::loss);
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).size == 9 * kBlockSize);
  }
  SECTION("flags that nobody knows") {
    forge_record(file, [](auto& r) { r.flags = 0x8000 | pmem::kInodeImmutable; });
    require_repaired(Code::inode_fields, Severity::repairable);
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).flags == pmem::kInodeImmutable);
  }
  SECTION("flags of a directory, in a file") {
    forge_record(file, [](auto& r) { r.flags = pmem::kInodeDirSync; });
    require_repaired(Code::inode_fields, Severity::repairable);
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).flags == 0);
  }
  SECTION("detach") {
    forge_record(file, [](auto& r) { r.detach_begin = 7; });
    require_repaired(Code::inode_fields, Severity::repairable);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("block count, too many") {
    forge_record(file, [](auto& r) { r.blocks = 9; });
    require_repaired(Code::block_count, Severity::loss);
  }
  SECTION("block count, too few") {
    forge_record(file, [](auto& r) { r.blocks = 1; });
    require_repaired(Code::block_count, Severity::repairable);
  }
  SECTION("size of a directory") {
    forge_record(sub, [](auto& r) { r.size = 100; });
    require_repaired(Code::directory_size, Severity::repairable);
  }
  SECTION("attribute run") {
    forge_record(file, [](auto& r) { r.xattr_block = 5; });
    require_repaired(Code::xattrs, Severity::loss);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("the root is a file") {
    forge_record(root, [](auto& r) { r.mode = S_IFREG | 0644; });
    require_repaired(Code::root, Severity::loss);
    CHECK(find({"lost+found", lost_name(sub), "witness"}) == witness.number);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: damaged extents cost no more than their own range") {
  SECTION("destroyed: its blocks are lost, the others stay") {
    zero(extent_slot(file, 1) + ByteCount(8), 16);
    require_repaired(Code::extent_record, Severity::loss);
    check_content(file, {0, 4, 6, 8});
  }
  SECTION("zeroed: the record counts more blocks") {
    zero(extent_slot(file, 1), 32);
    require_repaired(Code::block_count, Severity::loss);
    check_content(file, {0, 4, 6, 8});
  }
  SECTION("another inode's") {
    forge_extent(file, 1, [](auto& r) { ++r.inode_low; });
    require_repaired(Code::extent_record, Severity::loss);
  }
  SECTION("outside of the data area") {
    forge_extent(file, 1, [](auto& r) { r.pool_block = 1; });
    require_repaired(Code::extent_record, Severity::loss);
  }
  SECTION("overlapping") {
    forge_extent(file, 0, [](auto& r) { r.count = 3; });
    require_repaired(Code::extent_overlap, Severity::loss);
    check_content(file, {0, 4, 6, 8});
  }
  SECTION("unwritten in a directory") {
    forge_extent(deep, 0, [](auto& r) { r.flags = pmem::kExtentUnwritten; });
    require_repaired(Code::directory_extents, Severity::repairable);
    CHECK(find({"lost+found", lost_name(file)}) == file.number);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: what has no data gets no blocks") {
  OpenInode pipe = create(*volume, root, "pipe", S_IFIFO | 0600);
  fill(pipe, {0, 2, 4, 6, 8});
  require_repaired(Code::extent_record, Severity::loss);
  CHECK(find({"pipe"}) == pipe.number);
  const auto slot_now = medium->load<pmem::InodeSlot>(slot(pipe));
  CHECK(slot_now.record.blocks == 0);
  CHECK(slot_now.record.extent_block == 0);
  CHECK(slot_now.extents[0].count == 0);
}

TEST_CASE_METHOD(FsckFixture, "fsck: the chain of extent blocks") {
  std::vector<std::uint64_t> blocks;
  for (std::uint64_t b = 10; b < 600; b += 2) blocks.push_back(b);
  fill(file, blocks);  // three extent blocks
  REQUIRE(file.map->chain().size() == 3);
  const PoolOffset newest = offset_of(file.map->chain()[2]);
  const PoolOffset middle = offset_of(file.map->chain()[1]);
  SECTION("header destroyed: its slots are kept, and the rest of the chain if that is proven") {
    zero(middle + ByteCount(4), 12);
    const auto report = require_repaired(Code::extent_chain, Severity::loss);
    check_content(file, {0, 2, 4, 6, 8, 100, 400, 598});
  }
  SECTION("link destroyed: what followed is lost") {
    zero(newest, 32);
    require_repaired(Code::extent_chain, Severity::loss);
    check_content(file, {0, 2, 4, 6, 598});
  }
  SECTION("block zeroed") {
    zero(middle, kBlockSize);
    require_repaired(Code::extent_chain, Severity::loss);
    check_content(file, {0, 2, 4, 6, 598});
  }
  SECTION("loop") {
    forge<pmem::ExtentBlock>(middle, 32, [&](auto& b) { b.next = file.map->chain()[2].value; });
    require_repaired(Code::extent_chain, Severity::loss);
  }
  SECTION("out of the pool") {
    forge_record(file, [](auto& r) { r.extent_block = ~0ull >> 12; });
    require_repaired(Code::extent_chain, Severity::loss);
    check_content(file, {0, 2, 4, 6});
  }
  SECTION("another inode's") {
    forge<pmem::ExtentBlock>(middle, 32, [](auto& b) { b.inode += 1ull << 32; });
    require_repaired(Code::extent_chain, Severity::loss);
  }
}

TEST_CASE_METHOD(FsckFixture,
                 "fsck: extended attributes with one flipped bit are corrected, others dropped") {
  std::vector<PoolRange> released;
  const XattrMap attributes{{"user.a", std::string(5000, 'v')}};
  REQUIRE(
      replace_xattrs(*medium, volume->allocator(), file.number, file.record, attributes, released));
  commit_record(*volume, file);
  const PoolOffset run = offset_of(PoolBlock(file.record.xattr_block));
  SECTION("one bit") {
    flip_bit(*medium, run + ByteCount(4500), 3);
    require_repaired(Code::xattrs, Severity::repairable);
    CHECK(load_xattrs(*medium, file.number, file.record, volume->data_area()) == attributes);
  }
  SECTION("more") {
    zero(run + ByteCount(100), 100);
    require_repaired(Code::xattrs, Severity::loss);
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).xattr_block == 0);
  }
  check_content(file, {0, 2, 4, 6, 8});
}

TEST_CASE_METHOD(FsckFixture,
                 "fsck: a symbolic link without a target is removed, and none is truncated") {
  OpenInode link = create(*volume, root, "link", S_IFLNK | 0777);
  fill(link, {0});
  link.record.size = 10;
  commit_record(*volume, link);
  SECTION("without a target is removed") {
    zero(offset_of(first_block(link)), kBlockSize);
    require_repaired(Code::symlink, Severity::loss);
    CHECK_FALSE(find({"link"}));
  }
  SECTION("is not truncated, whatever its record says") {
    forge_record(link, [](auto& r) { r.detach_end = pmem::kDetachToEnd; });
    require_repaired(Code::inode_fields, Severity::repairable);
    check_content(link, {0});
  }
}
