#include "blockmap/volume/volume.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "base/crc32c.h"
#include "blockmap/fsck/fsck.h"
#include "blockmap/layout.h"
#include "blockmap/volume/check.h"
#include "blockmap/volume/detach.h"
#include "blockmap/xattr.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSize(8 << 20);
constexpr PoolOffset kState(4096);

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void put_superblock(Medium& medium, pmem::Superblock super) {
  seal(super);
  for (const PoolBlock block : {PoolBlock(0), PoolBlock(medium.blocks().value - 1)}) {
    medium.store(offset_of(block), std::as_bytes(std::span(&super, 1)));
  }
}

}  // namespace

TEST_CASE("a new pool opens, and what is made is there at the next mount") {
  const auto medium = make_pool(kSize);
  std::uint64_t free_blocks = 0;
  std::uint64_t inodes = 0;
  {
    const auto volume = open_volume(*medium);
    CHECK(volume->report().was_clean);
    CHECK(volume->report().inodes == 1);
    CHECK(volume->uuid() == "dead0102-0304-0506-0708-090a0b0c0dff");
    CHECK(volume->allocator().free_blocks() == volume->data_blocks());
    inodes = populate(*volume);
    free_blocks = volume->allocator().free_blocks().value;
  }
  for (unsigned round = 0; round < 3; ++round) {
    const auto volume = open_volume(*medium, 1 + round);
    CHECK(volume->report().was_clean == (round == 2));
    CHECK(volume->report().inodes == inodes);
    CHECK(volume->allocator().free_blocks().value == free_blocks);
    CHECK(medium->load<pmem::PoolState>(kState).flags == 0);
    CHECK(medium->load<pmem::PoolState>(kState).mounts == 2 + round);
    OpenInode root = open_inode(*volume, kRootInode);
    const auto sub = root.directory->find("sub");
    REQUIRE(sub);
    OpenInode directory = open_inode(*volume, sub->inode);
    CHECK(directory.directory->size() == inodes - 3);
    const OpenInode large =
        open_inode(*volume, directory.directory->find(std::string(255, 'l'))->inode);
    CHECK(large.map->size() == 300);
    if (round == 1) volume->close_clean();
  }
}

TEST_CASE("read-only mounts write nothing") {
  const auto medium = make_pool(kSize);
  populate(*open_volume(*medium));
  const auto before = copy_of(*medium);
  {
    auto volume = Volume::open(*medium, "test.pool", true, 2);
    REQUIRE(volume);
    (*volume)->close_clean();
  }
  CHECK(std::memcmp(before->at(PoolBlock(0)), medium->at(PoolBlock(0)), kSize.value) == 0);
}

TEST_CASE("what is no pool is called so") {
  const auto medium = blank(kSize);
  CHECK(has(complaint(*medium), "test.pool: not a daxfs pool"));
  CHECK(has(complaint(*blank(ByteCount(100))), "not a daxfs pool"));
  CHECK(has(complaint(*blank(ByteCount(4096))), "not a daxfs pool"));
  std::mt19937_64 random(1);
  for (std::uint64_t at = 0; at < kSize.value; at += 8) medium->store_u64(PoolOffset(at), random());
  CHECK(has(complaint(*medium), "not a daxfs pool"));
}

TEST_CASE("other formats and features are refused by name") {
  const auto medium = make_pool(kSize);
  auto super = superblock(*medium);
  SECTION("version") {
    super.version = 7;
    put_superblock(*medium, super);
    CHECK(has(complaint(*medium), "made by a newer version (format 7, this program knows 2)"));
  }
  SECTION("an older version") {
    super.version = 1;
    put_superblock(*medium, super);
    CHECK(has(complaint(*medium), "made by an older version (format 1, this program knows 2)"));
  }
  SECTION("a version whose checksum is unknown") {
    super.version = 7;
    super.crc = 1;
    for (const PoolBlock block : {PoolBlock(0), PoolBlock(medium->blocks().value - 1)}) {
      medium->store(offset_of(block), std::as_bytes(std::span(&super, 1)));
    }
    CHECK(has(complaint(*medium), "made by a newer version (format 7, this program knows 2)"));
  }
  SECTION("incompatible features") {
    super.incompatible_features = 0x24;
    put_superblock(*medium, super);
    CHECK(has(complaint(*medium), "incompatible feature bits 0x24"));
  }
  SECTION("incompatible features of its use") {
    auto state = medium->load<pmem::PoolState>(offset_of(kStateBlock));
    state.incompatible = 0x20 | pmem::kPoolDoorbells;
    const auto put = [&] {
      medium->store(offset_of(kStateBlock), std::as_bytes(std::span(&state, 1)));
    };
    put();
    CHECK(has(complaint(*medium), "checksum does not match"));
    seal(state);
    put();
    CHECK(
        has(complaint(*medium), "pool state: incompatible feature bits 0x20; use the newer daxfs"));
    state.incompatible = pmem::kPoolDoorbells;
    seal(state);
    put();
    CHECK(complaint(*medium).empty());
  }
  SECTION("compatible features") {
    super.compatible_features = 0x24;
    put_superblock(*medium, super);
    CHECK(complaint(*medium).empty());
  }
}

TEST_CASE("a feature that is used stands in both superblocks, whenever a crash comes") {
  const auto medium = make_pool(kSize);
  const PoolOffset b = offset_of(PoolBlock(medium->blocks().value - 1));
  const auto before = superblock(*medium);
  unsigned fences = 0;
  {
    const auto volume = open_volume(*medium);
    medium->on_fence = [&] {
      ++fences;
      const auto crashed = copy_of(*medium);
      const auto checked = fsck::check_and_repair(*copy_of(*crashed), "pool", {});
      REQUIRE(checked);
      for (const fsck::Finding& finding : checked->findings) {
        CHECK(finding.severity == fsck::Severity::harmless);
      }
      REQUIRE(complaint(*crashed).empty());
      CHECK(superblock(*crashed).incompatible_features ==
            crashed->load<pmem::Superblock>(b).incompatible_features);
      // Torn as it may be, the other one is whole.
      crashed->zero(fences <= 3 ? b : PoolOffset(0), ByteCount(sizeof(pmem::Superblock)));
      REQUIRE(complaint(*crashed).empty());
    };
    REQUIRE(volume->use_feature(pmem::kFeatureAcls));
    const unsigned needed = fences;
    CHECK(needed == 6);  // two transactions
    REQUIRE(volume->use_feature(pmem::kFeatureAcls));
    CHECK(fences == needed);
    medium->on_fence = nullptr;
    REQUIRE(volume->use_feature(pmem::kFeatureInodeFlags));
  }
  const auto after = superblock(*medium);
  CHECK(before.incompatible_features == 0);
  CHECK(after.incompatible_features == (pmem::kFeatureAcls | pmem::kFeatureInodeFlags));
  CHECK(after.uuid == before.uuid);
  CHECK(complaint(*medium).empty());
}

TEST_CASE("a truncated pool is called so, a longer file is fine") {
  const auto medium = make_pool(kSize);
  CHECK(has(complaint(*copy_of(*medium, ByteCount(5000000))),
            "pool is truncated: superblock says 8388608 bytes, file has 5000000"));
  CHECK(has(complaint(*copy_of(*medium, ByteCount(4096))), "pool is truncated"));
  const auto longer = blank(ByteCount(12 << 20));
  longer->write(PoolOffset(0), {medium->at(PoolOffset(0)), kSize.value});
  CHECK(complaint(*longer).empty());
}

TEST_CASE("one damaged superblock is no problem, two are") {
  const auto medium = make_pool(kSize);
  const PoolOffset b = offset_of(PoolBlock(medium->blocks().value - 1));
  for (std::uint64_t bit = 0; bit < sizeof(pmem::Superblock) * 8; bit += 13) {
    flip_bit(*medium, PoolOffset(bit / 8), bit % 8);
    CHECK(complaint(*medium).empty());
    flip_bit(*medium, b + ByteCount(bit / 8), bit % 8);
    CHECK_FALSE(complaint(*medium).empty());
    flip_bit(*medium, PoolOffset(bit / 8), bit % 8);
    CHECK(complaint(*medium).empty());
    flip_bit(*medium, b + ByteCount(bit / 8), bit % 8);
  }
  flip_bit(*medium, PoolOffset(30), 0);
  flip_bit(*medium, b + ByteCount(30), 0);
  CHECK(has(complaint(*medium), "superblock is damaged"));
}

TEST_CASE("impossible geometry is refused, whatever the checksum says") {
  const auto medium = make_pool(kSize);
  const auto good = superblock(*medium);
  const auto with = [&](auto member, auto value) {
    auto super = good;
    super.*member = value;
    put_superblock(*medium, super);
    return complaint(*medium);
  };
  using S = pmem::Superblock;
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{1}, good.total_blocks - 1, good.total_blocks,
        std::uint64_t{1} << 52, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    CHECK_FALSE(with(&S::journal_start, value).empty());
    CHECK_FALSE(with(&S::pin_region_start, value).empty());
    if (value != 1) CHECK_FALSE(with(&S::pin_region_blocks, value).empty());
    CHECK_FALSE(with(&S::inode_region_start, value).empty());
    CHECK_FALSE(with(&S::data_start, value).empty());
    if (value != 1) CHECK_FALSE(with(&S::inode_region_chunks, value).empty());
    if (value != good.total_blocks && value != good.total_blocks - 1) {
      CHECK_FALSE(with(&S::total_blocks, value).empty());
    }
  }
  for (const std::uint32_t value : {0u, 5000u, ~0u}) {
    CHECK_FALSE(with(&S::journal_lanes, value).empty());
  }
  for (const std::uint32_t value : {0u, 64u, 4097u, 1u << 31, ~0u}) {
    CHECK_FALSE(with(&S::lane_bytes, value).empty());
  }
  CHECK_FALSE(with(&S::version, 0u).empty());
  CHECK(with(&S::compatible_features, std::uint64_t{0}).empty());
}

TEST_CASE("a committed transaction is replayed; a read-only mount refuses instead") {
  const auto medium = make_pool(kSize);
  std::unique_ptr<FenceMedium> crash;
  {
    const auto volume = open_volume(*medium);
    OpenInode root = open_inode(*volume, kRootInode);
    root.record.uid = 1234;
    Transaction tx;
    volume->inodes().stage(tx, kRootInode, root.record);
    int fences = 0;
    medium->on_fence = [&] {
      if (++fences == 1) crash = copy_of(*medium);
    };
    REQUIRE(volume->journal().commit(tx));
    medium->on_fence = nullptr;
  }
  REQUIRE(crash);
  CHECK(has(complaint(*crash, true), "the journal holds 1 changes"));
  CHECK_FALSE(check_volume(*crash, "crash").ok());
  const auto volume = open_volume(*crash);
  CHECK(volume->report().replayed == 1);
  CHECK(volume->inodes().load(kRootInode)->uid == 1234);
  CHECK(complaint(*crash, true).empty());
}

TEST_CASE("orphans are freed at the next mount, but not by a read-only one") {
  const auto medium = make_pool(kSize);
  std::uint64_t free_blocks = 0;
  {
    const auto volume = open_volume(*medium);
    OpenInode root = open_inode(*volume, kRootInode);
    create(*volume, root, "keep", S_IFREG | 0644);
    free_blocks = volume->allocator().free_blocks().value;
    OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
    std::vector<std::uint64_t> places;
    for (std::uint64_t i = 0; i < 200; ++i) places.push_back(2 * i);
    map_blocks(*volume, file, places);
    std::vector<PoolRange> released;
    REQUIRE(replace_xattrs(*medium, volume->allocator(), file.number, file.record,
                           {{"user.a", "b"}}, released));
    file.record.detach_end = pmem::kDetachToEnd;  // interrupted while it was truncated
    commit_record(*volume, file);
    OpenInode directory = create(*volume, root, "dir", S_IFDIR | 0755);
    unlink(*volume, root, "file", &file);
    unlink(*volume, root, "dir", nullptr);
    --root.record.links;
    commit_record(*volume, root);
    directory.record.links = 0;
    commit_record(*volume, directory);
  }
  {
    const auto volume = Volume::open(*medium, "test.pool", true, 1);
    REQUIRE(volume);
    CHECK((*volume)->report().orphans_freed == 0);
    CHECK((*volume)->report().inodes == 4);
    // 200 data blocks, 2 extent blocks and an attribute block.
    CHECK((*volume)->allocator().free_blocks().value == free_blocks - 203);
    CHECK(check_volume(*medium, "test.pool").ok());
  }
  for (int round = 0; round < 2; ++round) {
    const auto volume = open_volume(*medium);
    CHECK(volume->report().orphans_freed == (round == 0 ? 2 : 0));
    CHECK(volume->report().detaches_finished == 0);
    CHECK(volume->report().inodes == 2);
    CHECK(volume->allocator().free_blocks().value == free_blocks);
    CHECK(check_volume(*medium, "test.pool").ok());
  }
}

TEST_CASE("blocks with two owners are refused, and both are named") {
  const auto medium = make_pool(kSize);
  std::uint64_t numbers[2];
  {
    const auto volume = open_volume(*medium);
    OpenInode root = open_inode(*volume, kRootInode);
    OpenInode a = create(*volume, root, "a", S_IFREG | 0644);
    OpenInode b = create(*volume, root, "b", S_IFREG | 0644);
    map_blocks(*volume, a, {0, 1, 2});
    numbers[0] = a.number.value;
    numbers[1] = b.number.value;
    const PoolRange stolen = a.map->physical(to_end(FileBlock(1))).front();
    Transaction tx;
    REQUIRE(b.map->reserve(b.record, 1));
    b.map->insert(tx, {FileBlock(7), stolen.start + BlockCount(1), BlockCount(1), false});
    REQUIRE(volume->journal().commit(tx));
    const std::string text = complaint(*medium, true, GENERATE(1u, 4u));
    CHECK(has(text, "block " + std::to_string(stolen.start.value + 1) + " is used twice"));
    CHECK(has(text, "inode " + std::to_string(numbers[0]) + " "));
    CHECK(has(text, "inode " + std::to_string(numbers[1]) + ";"));
  }
}

TEST_CASE("damage is an error that names the inode") {
  const auto medium = make_pool(kSize);
  const auto volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
  map_blocks(*volume, file, {0, 2, 4, 6});
  const std::string name = "test.pool: inode " + std::to_string(file.number.value) + ": ";
  const PoolOffset slot = volume->inodes().slot(file.number);
  SECTION("checksum") {
    flip_bit(*medium, slot + ByteCount(offsetof(pmem::InodeRecord, uid)), 0);
    CHECK(has(complaint(*medium), name + "checksum does not match; run fsck.daxfs"));
  }
  SECTION("times may be anything") {
    flip_bit(*medium, slot + ByteCount(offsetof(pmem::InodeRecord, mtime_ns)), 7);
    CHECK(complaint(*medium).empty());
  }
  SECTION("extents") {
    flip_bit(*medium, slot + ByteCount(sizeof(pmem::InodeRecord)), 0);
    CHECK(has(complaint(*medium), name + "its extents are damaged"));
  }
  SECTION("a record of another inode") {
    const auto other = create(*volume, root, "other", S_IFREG | 0644);
    const auto extent =
        medium->load<pmem::ExtentRecord>(slot + ByteCount(sizeof(pmem::InodeRecord)));
    medium->store(volume->inodes().slot(other.number) + ByteCount(sizeof(pmem::InodeRecord)),
                  std::as_bytes(std::span(&extent, 1)));
    CHECK(has(complaint(*medium), "its extents are damaged"));
  }
  SECTION("file type") {
    file.record.mode = 0777;
    commit_record(*volume, file);
    CHECK(has(complaint(*medium), name + "has no valid file type"));
  }
  SECTION("size") {
    file.record.size = 1ull << 63;
    commit_record(*volume, file);
    CHECK(has(complaint(*medium), name + "has an impossible size"));
  }
  SECTION("intent") {
    file.record.detach_begin = 2;
    file.record.detach_end = 1;
    commit_record(*volume, file);
    CHECK(has(complaint(*medium), name + "has an impossible detach"));
  }
  SECTION("attributes outside the pool") {
    file.record.xattr_block = medium->blocks().value - 1;
    file.record.xattr_bytes = 100;
    commit_record(*volume, file);
    CHECK(has(complaint(*medium), name + "has an impossible extended attribute run"));
  }
  SECTION("a free slot that is not empty") {
    flip_bit(*medium, volume->inodes().slot(InodeNumber(100)) + ByteCount(200), 0);
    CHECK(has(complaint(*medium), "inode 100: the slot is free but not empty"));
  }
  SECTION("the generation of a free slot may be anything") {
    flip_bit(*medium, volume->inodes().slot(InodeNumber(100)) + ByteCount(4), 3);
    CHECK(complaint(*medium).empty());
  }
  SECTION("the root") {
    root.record.mode = S_IFREG | 0644;
    commit_record(*volume, root);
    CHECK(has(complaint(*medium), "the root directory is missing"));
  }
  SECTION("pool state") {
    flip_bit(*medium, kState + ByteCount(20), 1);
    CHECK(has(complaint(*medium), "pool state: checksum does not match"));
  }
}

TEST_CASE("an intent inside one extent of a hostile pool is finished or refused, without a crash") {
  const auto medium = make_pool(kSize);
  InodeNumber number;
  {
    const auto volume = open_volume(*medium);
    OpenInode root = open_inode(*volume, kRootInode);
    OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
    map_blocks(*volume, file, {0, 1, 2, 10, 20, 30});
    number = file.number;
    file.record.detach_begin = 1;
    file.record.detach_end = 2;
    commit_record(*volume, file);
    if (GENERATE(false, true)) {
      OpenInode hog = create(*volume, root, "hog", S_IFREG | 0644);
      std::vector<std::uint64_t> places(volume->allocator().free_blocks().value);
      for (std::size_t i = 0; i < places.size(); ++i) places[i] = i;
      map_blocks(*volume, hog, places);
      REQUIRE(volume->allocator().free_blocks().value == 0);
      CHECK(has(complaint(*medium), "no space to finish an interrupted truncation"));
      return;
    }
  }
  const auto volume = open_volume(*medium);
  CHECK(volume->report().detaches_finished == 1);
  CHECK(open_inode(*volume, number).map->mapped().value == 5);
  CHECK(check_volume(*medium, "test.pool").ok());
}

TEST_CASE("a near-empty pool of a tebibyte opens at once") {
  const auto medium = make_pool(ByteCount(1ull << 40));
  const auto start = std::chrono::steady_clock::now();
  const auto volume = open_volume(*medium);
  const auto took = std::chrono::steady_clock::now() - start;
  CHECK(volume->allocator().free_blocks() == volume->data_blocks());
  // The budget is 0.1 s; the margin is for sanitizers and busy machines.
  CHECK(std::chrono::duration<double>(took).count() < 1.0);
}
