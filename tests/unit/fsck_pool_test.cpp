// Damage to what the whole pool rests on, interrupted work, and repairs that are killed.
#include "tests/unit/fsck_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

namespace {

// A lane with one committed record, as commit() writes it.
void write_lane(Medium& medium, PoolOffset lane, std::uint64_t to, std::uint64_t value) {
  struct {
    std::uint32_t crc = 0;
    std::uint32_t bytes = 24;
    std::uint64_t sequence = 1;
    std::uint64_t offset;
    std::uint32_t length = 8;
    std::uint32_t reserved = 0;
    std::uint64_t data;
  } image{.offset = to, .data = value};
  image.crc = sealed_crc(std::as_bytes(std::span(&image, 1)));
  medium.store(lane, std::as_bytes(std::span(&image, 1)));
}

}  // namespace

TEST_CASE_METHOD(FsckFixture,
                 "fsck: a superblock comes back from its copy or from the rest, or is refused") {
  SECTION("copy A lost") {
    zero(PoolOffset(0), kBlockSize);
    require_repaired(Code::superblock, Severity::repairable);
    CHECK(medium->load<pmem::Superblock>(PoolOffset(0)).uuid == volume->superblock().uuid);
  }
  SECTION("copy B lost") {
    zero(offset_of(superblock_b(*medium)), kBlockSize);
    require_repaired(Code::superblock, Severity::repairable);
  }
  SECTION("copy A sealed, but wrong") {
    forge<pmem::Superblock>(PoolOffset(0), sizeof(pmem::Superblock),
                            [](auto& s) { s.data_start += 100; });
    require_repaired(Code::superblock, Severity::repairable);
    CHECK(medium->load<pmem::Superblock>(PoolOffset(0)).data_start ==
          volume->superblock().data_start);
  }
  SECTION("both damaged: deduced from the rest") {
    for (const PoolBlock block : {kSuperblockA, superblock_b(*medium)}) {
      zero(offset_of(block) + ByteCount(50), 100);
    }
    require_repaired(Code::superblock, Severity::loss);
  }
  SECTION("both gone: refused with a reason") {
    zero(PoolOffset(0), kBlockSize);
    zero(offset_of(superblock_b(*medium)), kBlockSize);
    const auto refused = fsck::check_and_repair(*medium, "test.pool", {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().text.find("not a daxfs pool") != std::string::npos);
  }
  SECTION("a newer format: refused") {
    for (const PoolBlock block : {kSuperblockA, superblock_b(*medium)}) {
      forge<pmem::Superblock>(offset_of(block), sizeof(pmem::Superblock),
                              [](auto& s) { s.version = pmem::kVersion + 1; });
    }
    const auto refused = fsck::check_and_repair(*medium, "test.pool", {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().text.find("newer") != std::string::npos);
  }
  SECTION("in use by a newer daxfs: refused") {
    forge<pmem::PoolState>(offset_of(kStateBlock), sizeof(pmem::PoolState),
                           [](auto& s) { s.incompatible = 0x20; });
    if (GENERATE(false, true)) flip_bit(*medium, offset_of(kStateBlock) + ByteCount(20), 3);
    const auto refused = fsck::check_and_repair(*medium, "test.pool", {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().text.find("newer") != std::string::npos);
    CHECK(medium->load<pmem::PoolState>(offset_of(kStateBlock)).incompatible == 0x20);
  }
  SECTION("a pool that has grown") {
    auto grown = blank(ByteCount(10 << 20));
    grown->write(PoolOffset(0), {medium->at(PoolOffset(0)), medium->size().value});
    const auto report = fsck::check_and_repair(*grown, "test.pool", {});
    REQUIRE(report);
    CHECK(report->findings.empty());
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: a damaged pool state is found and repaired") {
  SECTION("destroyed") {
    zero(offset_of(kStateBlock), sizeof(pmem::PoolState));
    require_repaired(Code::pool_state, Severity::loss);
    CHECK(find({"sub", "deep", "file"}) == file.number);
  }
  SECTION("impossible count") {
    forge<pmem::PoolState>(offset_of(kStateBlock), sizeof(pmem::PoolState),
                           [](auto& s) { s.inode_chunks = 1ull << 40; });
    require_repaired(Code::pool_state, Severity::loss);
  }
  SECTION("an index where there is none") {
    forge<pmem::PoolState>(offset_of(kStateBlock), sizeof(pmem::PoolState),
                           [&](auto& s) { s.inode_index = first_block(witness).value; });
    require_repaired(Code::chunk_index, Severity::repairable);
  }
}

TEST_CASE("fsck: names show how many inode chunks there are") {
  auto medium = make_pool(ByteCount(64 << 20));
  auto volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode last;
  for (int i = 0; i < 2500; ++i) {
    last = create(*volume, root, "file" + std::to_string(i), S_IFREG | 0600);
  }
  volume->close_clean();
  REQUIRE(last.number.value > 2 * pmem::kChunkInodes);
  SECTION("when the state is destroyed") {
    medium->zero(offset_of(kStateBlock), ByteCount(sizeof(pmem::PoolState)));
  }
  SECTION("when it says too few") {
    auto state = medium->load<pmem::PoolState>(offset_of(kStateBlock));
    state.inode_chunks = 2;
    seal(state);
    medium->store(offset_of(kStateBlock), std::as_bytes(std::span(&state, 1)));
  }
  const auto report = fsck::check_and_repair(*medium, "test.pool", {});
  REQUIRE(report);
  CHECK(report->left == 0);
  CHECK(report->files == 2500);
}

TEST_CASE_METHOD(FsckFixture,
                 "fsck: committed changes are replayed, torn and harmful ones dropped") {
  const PoolOffset lanes = offset_of(PoolBlock(volume->superblock().journal_start));
  const PoolOffset target = slot(file) + ByteCount(offsetof(pmem::InodeRecord, mtime_ns));
  SECTION("a committed change is replayed") {
    write_lane(*medium, lanes, target.value, 4711);
    require_repaired(Code::journal_pending, Severity::harmless);
    CHECK(medium->load<std::uint64_t>(target) == 4711);
  }
  SECTION("a torn one is dropped") {
    put(lanes, std::uint64_t{0x1234567890});
    require_repaired(Code::journal_pending, Severity::harmless);
  }
  SECTION("one that points outside is dropped, the others are replayed") {
    write_lane(*medium, lanes, 1ull << 50, 1);
    write_lane(*medium, lanes + ByteCount(volume->superblock().lane_bytes), target.value, 4711);
    require_repaired(Code::journal_lane, Severity::loss);
    CHECK(medium->load<std::uint64_t>(target) == 4711);
  }
  SECTION("one that overwrites the superblock does it no harm") {
    write_lane(*medium, lanes, 8, 0);
    require_repaired(Code::superblock, Severity::repairable);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: interrupted work is finished") {
  SECTION("an unlinked file that was open") {
    unlink(*volume, deep, "file", &file);
    require_repaired(Code::orphan, Severity::harmless);
    CHECK_FALSE(in_use(file));
  }
  SECTION("a long truncation") {
    forge_record(file, [](auto& r) {
      r.detach_begin = 4;
      r.detach_end = pmem::kDetachToEnd;
    });
    require_repaired(Code::detach, Severity::harmless);
    check_content(file, {0, 2});
    CHECK(medium->load<pmem::InodeRecord>(slot(file)).blocks == 2);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: a repair can be killed at any fence") {
  // Something for every pass.
  flip_bit(*medium, PoolOffset(20), 1);
  forge_extent(file, 0, [&](auto& r) { r.pool_block = first_block(witness).value; });
  zero(extent_slot(file, 1) + ByteCount(8), 8);
  add_name(root, "ghost", InodeNumber(500), DT_REG);
  unlink(*volume, root, "sub", nullptr);
  add_name(deep, "sub", sub.number, DT_DIR);
  zero(offset_of(superblock_b(*medium)), 64);

  std::vector<std::unique_ptr<FenceMedium>> left;
  medium->on_fence = [&] { left.push_back(copy_of(*medium)); };
  REQUIRE(run().left == 0);
  medium->on_fence = nullptr;
  REQUIRE(left.size() > 20);
  for (auto& image : left) {
    medium = std::move(image);
    REQUIRE(run().left == 0);
    REQUIRE(run().findings.empty());
    check_content(witness, {0, 1, 5});
    check_content(file, {4, 6, 8});
    REQUIRE(find({"lost+found", lost_name(sub), "witness"}) == witness.number);
  }
}

TEST_CASE_METHOD(FsckFixture, "fsck: a signal ends it between two repairs") {
  const std::atomic<bool> cancelled{true};
  fsck::Options options;
  options.cancelled = &cancelled;
  const auto report = fsck::check_and_repair(*medium, "test.pool", options);
  REQUIRE(report);
  CHECK(report->cancelled);
}
