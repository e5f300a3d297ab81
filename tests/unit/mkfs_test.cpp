#include "blockmap/volume/mkfs.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "base/crc32c.h"
#include "blockmap/journal.h"
#include "blockmap/medium/heap_medium.h"
#include "blockmap/pin_record_scan.h"
#include "tests/crash/recording_medium.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

constexpr ByteCount kSmall{pmem::kMinPoolBytes};

MakeOptions options() {
  MakeOptions out;
  for (std::size_t i = 0; i < out.uuid.size(); ++i) out.uuid[i] = static_cast<std::uint8_t>(i + 1);
  out.root_uid = 12;
  out.root_gid = 34;
  out.root_mode = 0750;
  out.now_ns = 1'700'000'000'123'456'789;
  return out;
}

PoolBlock copy_a() { return PoolBlock(0); }
PoolBlock copy_b(const Medium& medium) { return PoolBlock(medium.blocks().value - 1); }

bool valid_superblock(const Medium& medium, PoolBlock block) {
  const auto super = medium.load<pmem::Superblock>(offset_of(block));
  return super.magic == pmem::kMagic && is_sealed(super) &&
         super.total_blocks == medium.blocks().value;
}

void check_complete(const Medium& medium) {
  const auto super = plan_geometry(medium.blocks());
  const auto state = medium.load<pmem::PoolState>(offset_of(PoolBlock(1)));
  REQUIRE(is_sealed(state));
  REQUIRE(state.flags == pmem::kStateClean);
  REQUIRE(state.inode_chunks == 1);
  REQUIRE(state.inode_index == 0);
  const PoolOffset inodes = offset_of(PoolBlock(super.inode_region_start));
  const auto root = medium.load<pmem::InodeSlot>(inodes);
  REQUIRE(is_sealed(root.record, pmem::kInodeCrcBytes));
  REQUIRE(root.record.mode == (S_IFDIR | 0750));
  REQUIRE(root.record.links == 2);
  REQUIRE(root.record.parent == 1);
  REQUIRE(root.record.generation == 1);
  REQUIRE(root.record.uid == 12);
  REQUIRE(root.record.gid == 34);
  REQUIRE(root.record.size == 0);
  REQUIRE(root.record.mtime_ns == options().now_ns);
  const std::byte* const rest = medium.at(inodes) + sizeof(pmem::InodeRecord);
  const std::size_t length = pmem::kChunkBlocks * kBlockSize - sizeof(pmem::InodeRecord);
  REQUIRE(std::count(rest, rest + length, std::byte{0}) == static_cast<std::ptrdiff_t>(length));
  const auto pending = Journal::pending(
      medium, {offset_of(PoolBlock(super.journal_start)), super.journal_lanes, super.lane_bytes});
  REQUIRE(pending);
  REQUIRE(*pending == 0);
  const PinSlot pin_slot = slot_of(PoolBlock(super.pin_region_start), 0);
  const auto pins = medium.load<pmem::PinRegionHeader>(offset_of(pin_slot));
  REQUIRE(is_pin_record(pins, pin_slot));
  REQUIRE(pins.ready_blocks == 1);
  REQUIRE(pins.spill == 0);
  const std::byte* const records = medium.at(offset_of(pin_slot)) + sizeof pins;
  REQUIRE(std::count(records, records + kBlockSize - sizeof pins, std::byte{0}) ==
          static_cast<std::ptrdiff_t>(kBlockSize - sizeof pins));
}

}  // namespace

TEST_CASE("geometry fits pools of every size", "[mkfs]") {
  for (const std::uint64_t size : std::initializer_list<std::uint64_t>{
           pmem::kMinPoolBytes, 5ull << 20, (16ull << 20) - kBlockSize, 16ull << 20,
           (16ull << 20) + 1, 64ull << 20, 1ull << 30, 1ull << 40, pmem::kMaxPoolBytes}) {
    const BlockCount total(size >> kBlockShift);
    const auto super = plan_geometry(total);
    INFO(size);
    CHECK(super.total_blocks == total.value);
    CHECK(super.journal_start == 2);
    CHECK(super.lane_bytes >= 16 << 10);
    CHECK(super.lane_bytes % kBlockSize == 0);
    const std::uint64_t journal = std::uint64_t{super.journal_lanes} * super.lane_bytes;
    CHECK(super.pin_region_start == super.journal_start + journal / kBlockSize);
    CHECK(super.pin_region_blocks >= 1);
    CHECK(super.pin_region_blocks * kBlockSize >= size / 4096);
    CHECK((super.pin_region_blocks - 1) * kBlockSize < size / 4096);
    CHECK(super.inode_region_start == super.pin_region_start + super.pin_region_blocks);
    CHECK(super.inode_region_chunks >= 1);
    CHECK(super.inode_region_chunks * pmem::kChunkInodes >= size / (16 << 10));
    CHECK((super.inode_region_chunks - 1) * pmem::kChunkInodes < size / (16 << 10) + 1);
    CHECK(super.data_start ==
          super.inode_region_start + super.inode_region_chunks * pmem::kChunkBlocks);
    CHECK(super.data_start < total.value - 1);
    // Metadata stays a small part.
    CHECK(super.data_start < total.value / 8);
  }
}

TEST_CASE("an empty filesystem is laid over anything", "[mkfs]") {
  for (const std::uint64_t size : {kSmall.value, kBlockSize + (20u << 20)}) {
    HeapMedium medium{ByteCount(size)};
    std::vector<std::byte> garbage(size, std::byte{0xa5});
    medium.write(PoolOffset(0), garbage);
    REQUIRE(make_filesystem(medium, options()));
    check_complete(medium);
    CHECK(valid_superblock(medium, copy_a()));
    CHECK(valid_superblock(medium, copy_b(medium)));
    const auto super = medium.load<pmem::Superblock>(PoolOffset(0));
    CHECK(std::memcmp(medium.at(copy_a()), medium.at(copy_b(medium)), kBlockSize) == 0);
    CHECK(super.uuid == options().uuid);
    CHECK(super.version == pmem::kVersion);
    CHECK(super.created_ns == options().now_ns);
    CHECK(super.incompatible_features == 0);
    // What is not set aside for metadata is left alone.
    const PoolOffset data = offset_of(PoolBlock(super.data_start));
    CHECK(*medium.at(data) == std::byte{0xa5});
  }
}

TEST_CASE("sizes out of bounds are refused and nothing is changed", "[mkfs]") {
  HeapMedium medium{ByteCount(pmem::kMinPoolBytes - kBlockSize)};
  const auto made = make_filesystem(medium, options());
  REQUIRE_FALSE(made);
  CHECK(made.error().code == EINVAL);
  CHECK(made.error().text.find("small") != std::string::npos);
  const std::byte* const begin = medium.at(PoolOffset(0));
  CHECK(std::all_of(begin, begin + medium.size().value,
                    [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE("an interrupted mkfs leaves either no pool or a whole one", "[mkfs][crash]") {
  testing::RecordingMedium medium(kSmall);
  auto old = options();
  old.uuid.fill(0xee);
  SECTION("on zeroed media") {}
  SECTION("over an old pool") {
    REQUIRE(make_filesystem(medium, old));
    medium.store_u64(offset_of(PoolBlock(1)), 12345);  // no longer what mkfs writes
    medium.mark_start();
  }
  REQUIRE(make_filesystem(medium, options()));

  std::size_t none = 0;
  std::size_t old_ones = 0;
  std::size_t whole = 0;
  const std::size_t states = medium.explore({}, 1, [&](Medium& image, std::size_t) {
    bool any = false;
    for (const PoolBlock copy : {copy_a(), copy_b(image)}) {
      if (!valid_superblock(image, copy)) continue;
      any = true;
      const auto super = image.load<pmem::Superblock>(offset_of(copy));
      if (super.uuid == old.uuid) {
        ++old_ones;
        // Nothing of the old pool has been touched as long as it is one.
        REQUIRE(image.load<std::uint64_t>(offset_of(PoolBlock(1))) == 12345);
      } else {
        ++whole;
        check_complete(image);
      }
    }
    if (!any) ++none;
  });
  CHECK(states > 50);
  CHECK(none > 10);
  CHECK(whole > 10);
  // All of it is durable in the end, whatever was not fenced is lost.
  bool finished = true;
  medium.explore({.torn = 0}, 1, [&](Medium& image, std::size_t done) {
    if (done < medium.calls()) return;
    finished =
        finished && valid_superblock(image, copy_a()) && valid_superblock(image, copy_b(image));
  });
  CHECK(finished);
}
