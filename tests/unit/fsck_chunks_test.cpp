// Damage in inode chunks that lie in the data area: it must not cost what is in others.
#include <cstring>
#include <map>

#include "base/crc32c.h"
#include "blockmap/fsck/fsck.h"
#include "blockmap/layout.h"
#include "blockmap/volume/check.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

namespace {

// Four chunks: one in the region that mkfs set aside, three in the data area. In the first of these
// a single inode is in use.
struct FsckChunks {
  static constexpr std::uint64_t kLonely = pmem::kChunkInodes + 500;

  FsckChunks() {
    auto volume = open_volume(*medium);
    REQUIRE(volume->superblock().inode_region_chunks == 1);
    OpenInode root = open_inode(*volume, kRootInode);
    while (names.size() < 3 * pmem::kChunkInodes + 200) {
      const std::string name = "file" + std::to_string(names.size());
      names[create(*volume, root, name, S_IFREG | 0600).number.value] = name;
    }
    for (std::uint64_t n = pmem::kChunkInodes + 1; n <= 2 * pmem::kChunkInodes; ++n) {
      if (n == kLonely) continue;
      OpenInode inode = open_inode(*volume, InodeNumber(n));
      unlink(*volume, root, names.at(n), &inode);
      names.erase(n);
    }
    volume->close_clean();
    open_volume(*medium)->close_clean();  // frees what was unlinked
    volume = open_volume(*medium);
    for (std::uint64_t i = 0; i < 4; ++i) {
      chunks.push_back(volume->inodes().slot(InodeNumber(i * pmem::kChunkInodes + 1)));
    }
    lonely = volume->inodes().slot(InodeNumber(kLonely));
    volume->close_clean();
    REQUIRE(chunks[1] >= offset_of(volume->data_area().start));
  }

  fsck::Report repair(Severity up_to) {
    fsck::Options options;
    options.repair_up_to = up_to;
    const auto report = fsck::check_and_repair(*medium, "test.pool", options);
    REQUIRE(report);
    for (const fsck::Finding& f : report->findings) UNSCOPED_INFO(f.object << ": " << f.text);
    CHECK(report->left == 0);
    CHECK(check_volume(*medium, "test.pool").ok());
    return *report;
  }
  bool is_as_before(const Medium& before, PoolOffset chunk) const {
    return std::memcmp(before.at(chunk), medium->at(chunk),
                       bytes(BlockCount(pmem::kChunkBlocks)).value) == 0;
  }

  std::unique_ptr<FenceMedium> medium = make_pool(ByteCount(8 << 20));
  std::map<std::uint64_t, std::string> names;  // of inodes in use
  std::vector<PoolOffset> chunks;
  PoolOffset lonely;
};

}  // namespace

TEST_CASE_METHOD(FsckChunks, "fsck: one flipped bit in the only inode of a chunk costs nothing") {
  const auto before = copy_of(*medium);
  for (std::uint64_t bit = 8 * 4; bit < 8 * pmem::kInodeCrcBytes; bit += 37) {
    INFO("bit " << bit);
    flip_bit(*medium, lonely + ByteCount(bit / 8), bit % 8);
    const fsck::Report report = repair(Severity::repairable);
    REQUIRE(report.findings.size() == 1);
    REQUIRE(report.findings.front().code == Code::inode_record);
    REQUIRE(report.findings.front().severity == Severity::repairable);
    REQUIRE(report.files == names.size());
    for (const PoolOffset chunk : chunks) REQUIRE(is_as_before(*before, chunk));
  }
}

TEST_CASE_METHOD(FsckChunks, "fsck: a forged index does not make a chunk of a file's blocks") {
  // All else that it points to is free space: that proves nothing.
  const std::uint64_t count = GENERATE(std::uint64_t{1}, std::uint64_t{pmem::kChunkBlocks / 2});
  auto volume = open_volume(*medium);
  std::vector<PoolRange> window;
  REQUIRE(volume->allocator().allocate(BlockCount(pmem::kChunkBlocks), PoolBlock(0), window));
  REQUIRE(window.size() == 1);
  OpenInode file = open_inode(*volume, InodeNumber(3));
  REQUIRE(S_ISREG(file.record.mode));
  const Extent extent{FileBlock(0), window.front().start, BlockCount(count), false};
  medium->zero(offset_of(window.front().start), bytes(window.front().count));
  const std::vector<std::byte> content(bytes(extent.count).value, std::byte{0x3c});
  medium->write(offset_of(extent.pool), content);
  Transaction tx;
  REQUIRE(file.map->reserve(file.record, 1));
  file.map->insert(tx, extent);
  file.record.blocks = extent.count.value;
  file.record.size = content.size();
  volume->inodes().stage(tx, file.number, file.record);
  REQUIRE(volume->journal().commit(tx));
  volume->close_clean();

  const auto state = medium->load<pmem::PoolState>(offset_of(kStateBlock));
  const PoolOffset at = offset_of(PoolBlock(state.inode_index));
  auto index = medium->load<pmem::ChunkIndexBlock>(at);
  index.chunks[2] = extent.pool.value;
  seal(index, offsetof(pmem::ChunkIndexBlock, chunks) + index.count * sizeof(std::uint64_t));
  medium->store(at, std::as_bytes(std::span(&index, 1)));

  repair(Severity::loss);
  CHECK(std::memcmp(medium->at(extent.pool), content.data(), content.size()) == 0);
}

TEST_CASE_METHOD(FsckChunks, "fsck: the smallest journal lanes hold a block of the index") {
  for (const PoolBlock copy : {kSuperblockA, superblock_b(*medium)}) {
    auto super = medium->load<pmem::Superblock>(offset_of(copy));
    super.lane_bytes = kMinLaneBytes;
    seal(super);
    medium->store(offset_of(copy), std::as_bytes(std::span(&super, 1)));
  }
  const auto state = medium->load<pmem::PoolState>(offset_of(kStateBlock));
  const PoolOffset at = offset_of(PoolBlock(state.inode_index));
  auto index = medium->load<pmem::ChunkIndexBlock>(at);
  SECTION("corrected") {
    index.chunks[1] ^= 4;
    medium->store(at, std::as_bytes(std::span(&index, 1)));
    CHECK(repair(Severity::repairable).files == names.size());
  }
  SECTION("cut off, with the pool state") {
    index.chunks[2] = 1;
    seal(index, offsetof(pmem::ChunkIndexBlock, chunks) + index.count * sizeof(std::uint64_t));
    medium->store(at, std::as_bytes(std::span(&index, 1)));
    const fsck::Report report = repair(Severity::loss);
    CHECK(report.findings.front().code == Code::chunk_index);
    std::erase_if(names, [](const auto& name) { return name.first > 3 * pmem::kChunkInodes; });
    CHECK(report.files == names.size());
  }
}
