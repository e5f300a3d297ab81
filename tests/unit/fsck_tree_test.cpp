// Damage to names, to the tree, and to what several inodes share.
#include "tests/unit/fsck_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

TEST_CASE_METHOD(FsckFixture, "fsck: blocks that two files claim") {
  const PoolBlock wanted = first_block(witness);
  SECTION("both keep them, one as a copy") {
    forge_extent(file, 0, [&](auto& r) { r.pool_block = wanted.value; });
    require_repaired(Code::shared_blocks, Severity::loss);
    check_content(file, {2, 4, 6, 8});
    const auto now = open_volume(*medium);
    const auto pool = open_inode(*now, file.number).map->run_at(FileBlock(0), BlockCount(1)).pool;
    REQUIRE(pool);
    CHECK(std::memcmp(medium->at(*pool), content(witness, 0).data(), kBlockSize) == 0);
  }
  SECTION("in the middle of an extent") {
    forge_extent(file, 0, [&](auto& r) {
      r.pool_block = wanted.value - 1;
      r.file_block = 100;
      r.count = 4;
    });
    require_repaired(Code::shared_blocks, Severity::loss);
  }
  SECTION("one record that claims what many own does not take it from them") {
    std::vector<OpenInode> many;
    for (std::uint64_t i = 0; i < 10; ++i) {
      many.push_back(create(*volume, root, "many" + std::to_string(i), S_IFREG | 0600));
      fill(many.back(), {0, 1});
    }
    // Everything that it can get, and no room for a copy of that.
    const std::uint64_t first = first_block(witness).value;
    const std::uint64_t count = volume->data_area().end().value - first;
    forge_extent(file, 0, [&](auto& r) {
      r.pool_block = first;
      r.file_block = 100;
      r.count = static_cast<std::uint32_t>(count);
    });
    require_repaired(Code::shared_blocks, Severity::loss);
    for (const OpenInode& other : many) check_content(other, {0, 1});
  }
  SECTION("what is unwritten needs no copy") {
    forge_extent(file, 0, [&](auto& r) {
      r.pool_block = wanted.value;
      r.flags = pmem::kExtentUnwritten;
    });
    require_repaired(Code::shared_blocks, Severity::repairable);
  }
  SECTION("an extent block proves whose it is") {
    forge_extent(witness, 1, [&](auto& r) { r.pool_block = file.record.extent_block; });
    const fsck::Report report = run();
    CHECK(has(report, Code::shared_blocks, Severity::loss));
    CHECK(run().findings.empty());
    check_content(file, {0, 2, 4, 6, 8});
    check_content(witness, {0});
  }
  SECTION("a directory block does, too") {
    forge_extent(witness, 1, [&](auto& r) { r.pool_block = first_block(deep).value; });
    const fsck::Report report = run();
    CHECK(has(report, Code::shared_blocks, Severity::loss));
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
  SECTION("a directory that claims a file's block does not get it") {
    forge_extent(deep, 0, [&](auto& r) { r.pool_block = wanted.value; });
    require_repaired(Code::shared_blocks, Severity::loss);
    CHECK(find({"lost+found", lost_name(file)}) == file.number);
  }
  SECTION("in a pool without space one of them loses them") {
    std::vector<PoolRange> all;
    while (volume->allocator().free_blocks().value > 8) {
      REQUIRE(volume->allocator().allocate(BlockCount(1), PoolBlock(0), all));
    }
    OpenInode filler = create(*volume, root, "filler", S_IFREG | 0600);
    Transaction tx;
    REQUIRE(filler.map->reserve(filler.record, 1));
    BlockCount at;
    for (const PoolRange& run : all) {
      tx.clear();
      REQUIRE(filler.map->reserve(filler.record, 1));
      filler.map->insert(tx, {FileBlock(at.value), run.start, run.count, false});
      at += run.count;
      filler.record.blocks = at.value;
      volume->inodes().stage(tx, filler.number, filler.record);
      REQUIRE(volume->journal().commit(tx));
    }
    forge_extent(witness, 0, [&](auto& r) { r.pool_block = first_block(file).value; });
    const fsck::Report report = run();
    CHECK(has(report, Code::shared_blocks, Severity::loss));
    CHECK(report.left == 0);
    CHECK(run().findings.empty());
    check_content(file, {0, 2, 4, 6, 8});
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: a damaged directory entry costs at most its own name") {
  const PoolOffset entry = offset_of(first_block(deep));
  SECTION("destroyed: the file goes to lost+found") {
    zero(entry + ByteCount(8), 20);
    require_repaired(Code::entry_damaged, Severity::loss);
    CHECK(find({"lost+found", lost_name(file)}) == file.number);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("for nothing") {
    add_name(root, "ghost", InodeNumber(500), DT_REG);
    require_repaired(Code::entry_dangling, Severity::loss);
    CHECK_FALSE(find({"ghost"}));
  }
  SECTION("for an impossible inode") {
    add_name(root, "ghost", InodeNumber(1ull << 50), DT_REG);
    require_repaired(Code::entry_dangling, Severity::loss);
  }
  SECTION("of another type") {
    file.record.links = 2;
    commit_record(*volume, file);
    add_name(root, "odd", file.number, DT_LNK);
    require_repaired(Code::entry_type, Severity::repairable);
    CHECK(find({"odd"}) == file.number);
  }
  SECTION("with an impossible name") {
    add_name(root, "a/b", file.number, DT_REG);
    require_repaired(Code::entry_damaged, Severity::loss);
  }
  SECTION("twice, for the same inode") {
    add_name(root, "one", file.number, DT_REG);
    add_name_again(root, "one", file.number);
    require_repaired(Code::entry_doubled, Severity::repairable);
    CHECK(find({"one"}) == file.number);
  }
  SECTION("twice, for two inodes") {
    add_name_again(root, "sub", file.number);
    require_repaired(Code::entry_doubled, Severity::loss);
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
}

TEST_CASE_METHOD(FsckFixture,
                 "fsck: wrong link counts and parents are put right, and what is named is kept") {
  SECTION("links of a file") {
    add_name(root, "again", file.number, DT_REG);
    require_repaired(Code::links, Severity::repairable);
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).links == 2);
  }
  SECTION("a named file that says it is unlinked is kept") {
    forge_record(file, [](auto& r) { r.links = 0; });
    require_repaired(Code::links, Severity::repairable);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("a directory that says it is removed is kept") {
    forge_record(deep, [](auto& r) { r.links = 0; });
    require_repaired(Code::links, Severity::repairable);
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
  SECTION("links of a directory") {
    forge_record(sub, [](auto& r) { r.links = 9; });
    require_repaired(Code::links, Severity::repairable);
  }
  SECTION("parent") {
    forge_record(deep, [](auto& r) { r.parent = 1; });
    require_repaired(Code::parent, Severity::repairable);
    CHECK(medium->load<pmem::InodeRecord>(slot(deep)).parent == sub.number.value);
  }
  SECTION("parent of the root") {
    forge_record(root, [](auto& r) { r.parent = 3; });
    require_repaired(Code::parent, Severity::repairable);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: loops, second names and lost files become one tree again") {
  SECTION("a second name of a directory") {
    add_name(root, "second", deep.number, DT_DIR);
    require_repaired(Code::directory_names, Severity::repairable);
    CHECK(find({"sub", "deep"}) == deep.number);
    CHECK_FALSE(find({"second"}));
  }
  SECTION("a name of the root") {
    add_name(deep, "root", kRootInode, DT_DIR);
    require_repaired(Code::directory_names, Severity::repairable);
  }
  SECTION("a file without a name") {
    unlink(*volume, deep, "file", nullptr);
    require_repaired(Code::unreachable, Severity::loss);
    CHECK(find({"lost+found", lost_name(file)}) == file.number);
    check_content(file, {0, 2, 4, 6, 8});
  }
  SECTION("a directory without a name") {
    unlink(*volume, root, "sub", nullptr);
    require_repaired(Code::unreachable, Severity::loss);
    CHECK(find({"lost+found", lost_name(sub), "deep", "file"}) == file.number);
  }
  SECTION("a removed directory with something in it") {
    unlink(*volume, sub, "deep", nullptr);
    deep.record.links = 0;
    commit_record(*volume, deep);
    require_repaired(Code::unreachable, Severity::loss);
    CHECK(find({"lost+found", lost_name(deep), "file"}) == file.number);
  }
  SECTION("lost+found is used again, and names in it are kept apart") {
    unlink(*volume, deep, "file", nullptr);
    require_repaired(Code::unreachable, Severity::loss);
    const auto now = open_volume(*medium);
    OpenInode lost = open_inode(*now, *find({"lost+found"}));
    const std::string name = "#" + std::to_string(witness.number.value);
    OpenInode taken = create(*now, lost, name, S_IFREG | 0600);
    OpenInode home = open_inode(*now, sub.number);
    unlink(*now, home, "witness", nullptr);
    now->close_clean();
    require_repaired(Code::unreachable, Severity::loss);
    CHECK(find({"lost+found", name}) == taken.number);
    CHECK(find({"lost+found", name + ".1"}) == witness.number);
  }
  SECTION("a loop") {
    unlink(*volume, root, "sub", nullptr);
    add_name(deep, "sub", sub.number, DT_DIR);
    require_repaired(Code::directory_loop, Severity::loss);
    CHECK(find({"lost+found", lost_name(sub), "deep", "file"}) == file.number);
  }
  SECTION("a directory in itself") {
    unlink(*volume, sub, "deep", nullptr);
    add_name(deep, "deep", deep.number, DT_DIR);
    require_repaired(Code::directory_loop, Severity::loss);
    CHECK(find({"lost+found", lost_name(deep), "file"}) == file.number);
  }
}
