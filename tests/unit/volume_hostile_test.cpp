// Mounting and checking what is damaged at random, or on purpose.
#include <iterator>
#include <random>

#include "base/crc32c.h"
#include "blockmap/volume/check.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSize(8 << 20);

}  // namespace

TEST_CASE("flipped bits in metadata never crash, and records with a checksum tell") {
  const auto medium = make_pool(kSize);
  std::uint64_t data_start = 0;
  {
    const auto volume = open_volume(*medium);
    populate(*volume);
    data_start = volume->superblock().data_start;
    volume->close_clean();
  }
  REQUIRE(check_volume(*medium, "test.pool").ok());
  const auto super = superblock(*medium);
  std::mt19937_64 random(GENERATE(21u, 22u));

  // Half of the flips hit what mkfs laid out, half what the directories, extents and attributes
  // use.
  const auto place = [&] {
    const std::uint64_t blocks[] = {random() % data_start, super.inode_region_start + random() % 7,
                                    data_start + random() % 330, random() % 2};
    const std::uint64_t block = blocks[random() % 4];
    return PoolOffset(block * kBlockSize + random() % kBlockSize);
  };
  for (int round = 0; round < 1500; ++round) {
    const PoolOffset at = place();
    const auto bit = static_cast<unsigned>(random() % 8);
    INFO("byte " << at.value << " bit " << bit);
    flip_bit(*medium, at, bit);
    const CheckReport report = check_volume(*medium, "test.pool");
    const std::uint64_t in_region = at.value - super.inode_region_start * kBlockSize;
    if (at.value >= super.inode_region_start * kBlockSize && in_region < 106 * pmem::kInodeBytes &&
        in_region % pmem::kInodeBytes < pmem::kInodeCrcBytes) {
      REQUIRE_FALSE(report.ok());
    }
    if (at.value < kBlockSize) REQUIRE(report.ok());  // copy B serves
    if (round % 20 == 0) {
      const auto copy = copy_of(*medium);
      complaint(*copy);
    }
    flip_bit(*medium, at, bit);
  }
  CHECK(check_volume(*medium, "test.pool").ok());

  // Many flips at once.
  for (int round = 0; round < 30; ++round) {
    const auto copy = copy_of(*medium);
    for (unsigned i = 0; i < 1 + random() % 40; ++i) {
      const PoolOffset at = place();
      flip_bit(*copy, at, static_cast<unsigned>(random() % 8));
    }
    static_cast<void>(check_volume(*copy, "test.pool"));
    complaint(*copy);
  }
}

TEST_CASE("hostile values behind good checksums never crash") {
  const auto medium = make_pool(kSize);
  populate(*open_volume(*medium));
  const auto super = superblock(*medium);
  std::mt19937_64 random(31);
  const std::uint64_t interesting[] = {0,          1,          2,          super.data_start,
                                       2047,       2048,       1ull << 31, 1ull << 51,
                                       1ull << 52, 1ull << 63, ~0ull,      ~0ull - 1};
  for (int round = 0; round < 600; ++round) {
    const auto copy = copy_of(*medium);
    const std::uint64_t number = 1 + random() % 106;
    const PoolOffset slot = offset_of(PoolBlock(super.inode_region_start)) +
                            ByteCount((number - 1) * pmem::kInodeBytes);
    auto inode = copy->load<pmem::InodeSlot>(slot);
    const std::uint64_t value = interesting[random() % std::size(interesting)];
    auto& extent = inode.extents[random() % 4];
    switch (random() % 9) {
      case 0:
        inode.record.extent_block = value;
        break;
      case 1:
        inode.record.xattr_block = value;
        break;
      case 2:
        inode.record.xattr_bytes = value;
        break;
      case 3:
        inode.record.parent = value;
        break;
      case 4:
        inode.record.links = static_cast<std::uint32_t>(value);
        break;
      case 5:
        inode.record.detach_begin = 0, inode.record.detach_end = value;
        break;
      case 6:
        extent.pool_block = value;
        break;
      case 7:
        extent.file_block = value;
        break;
      default:
        extent.count = static_cast<std::uint32_t>(value);
        break;
    }
    seal(inode.record, pmem::kInodeCrcBytes);
    if (extent.count != 0) {
      extent.inode_low = static_cast<std::uint32_t>(number);
      seal(extent);
    }
    copy->store(slot, std::as_bytes(std::span(&inode, 1)));
    static_cast<void>(check_volume(*copy, "test.pool"));
    complaint(*copy);
  }
}
