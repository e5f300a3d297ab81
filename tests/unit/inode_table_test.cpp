#include "blockmap/inode_table.h"

#include <set>
#include <thread>

#include "base/crc32c.h"
#include "blockmap/format.h"
#include "blockmap/layout.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSmall(8 << 20);
constexpr ByteCount kLarge(256 << 20);
constexpr PoolOffset kState(4096);

void commit_file(Volume& volume, InodeNumber number) {
  pmem::InodeRecord record{};
  record.mode = S_IFREG | 0644;
  record.links = 1;
  record.generation = volume.inodes().next_generation(number);
  Transaction tx;
  volume.inodes().stage(tx, number, record);
  REQUIRE(volume.journal().commit(tx));
}

std::uint64_t allocate_many(InodeTable& inodes, std::uint64_t count) {
  std::uint64_t last = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto number = inodes.allocate();
    if (!number) return last;
    last = number->value;
  }
  return last;
}

}  // namespace

TEST_CASE("inode numbers are handed out once, lowest first") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  InodeTable& inodes = volume->inodes();
  CHECK(inodes.used() == 1);
  CHECK(inodes.allocate()->value == 2);
  CHECK(inodes.allocate()->value == 3);
  CHECK(inodes.allocate()->value == 4);
  CHECK(inodes.used() == 4);
  inodes.release(InodeNumber(3));
  CHECK(inodes.used() == 3);
  CHECK(inodes.allocate()->value == 3);
  CHECK(inodes.allocate()->value == 5);
  CHECK_FALSE(inodes.valid(InodeNumber(0)));
  CHECK(inodes.valid(InodeNumber(inodes.capacity())));
  CHECK_FALSE(inodes.valid(InodeNumber(inodes.capacity() + 1)));
}

TEST_CASE("an inode record goes to the medium and back, and a freed slot keeps its generation") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  InodeTable& inodes = volume->inodes();
  const InodeNumber number = *inodes.allocate();
  CHECK(inodes.load(number).error().code == ENOENT);
  CHECK(inodes.load(InodeNumber(0)).error().code == ENOENT);
  CHECK(inodes.load(InodeNumber(1ull << 60)).error().code == ENOENT);

  pmem::InodeRecord record{};
  record.mode = S_IFREG | 0600;
  record.links = 1;
  record.generation = 41;
  record.size = 12345;
  record.atime_ns = -7;
  Transaction tx;
  inodes.stage(tx, number, record);
  REQUIRE(volume->journal().commit(tx));
  const auto loaded = inodes.load(number);
  REQUIRE(loaded);
  CHECK(std::memcmp(&*loaded, &record, sizeof record) == 0);

  for (std::uint64_t byte = 0; byte < pmem::kInodeCrcBytes; ++byte) {
    const PoolOffset at = inodes.slot(number) + ByteCount(byte);
    flip_bit(*medium, at, byte % 8);
    CHECK_FALSE(inodes.load(number));
    flip_bit(*medium, at, byte % 8);
  }
  CHECK(inodes.load(number));

  tx.clear();
  inodes.stage_free(tx, number, record);
  REQUIRE(volume->journal().commit(tx));
  inodes.release(number);
  CHECK(inodes.load(number).error().code == ENOENT);
  CHECK(inodes.next_generation(number) == 42);
}

TEST_CASE("generations begin differently in each pool, number and mount, and are never 0") {
  const auto first_of = [](std::uint8_t uuid, InodeNumber number, bool again) {
    const auto medium = make_pool(kSmall);
    for (const PoolBlock copy : {kSuperblockA, superblock_b(*medium)}) {
      auto super = medium->load<pmem::Superblock>(offset_of(copy));
      super.uuid.fill(uuid);
      seal(super);
      medium->write(offset_of(copy), std::as_bytes(std::span(&super, 1)));
    }
    const auto volume = open_volume(*medium);
    if (again) REQUIRE(volume->inodes().set_state_flags(0, true));
    return volume->inodes().next_generation(number);
  };
  const std::set<std::uint32_t> seen{
      first_of(1, InodeNumber(2), false), first_of(2, InodeNumber(2), false),
      first_of(1, InodeNumber(3), false), first_of(1, InodeNumber(2), true)};
  CHECK(seen.size() == 4);
  CHECK(first_of(1, InodeNumber(2), false) == first_of(1, InodeNumber(2), false));

  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  const InodeNumber number = *volume->inodes().allocate();
  pmem::InodeRecord record{};
  record.generation = UINT32_MAX;
  Transaction tx;
  volume->inodes().stage_free(tx, number, record);
  REQUIRE(volume->journal().commit(tx));
  CHECK(volume->inodes().next_generation(number) == 1);
}

TEST_CASE("a new chunk of the region is zeroed, whatever lay there") {
  const auto medium = make_pool(ByteCount(32 << 20));
  const auto volume = open_volume(*medium);
  REQUIRE(volume->superblock().inode_region_chunks >= 2);
  const std::vector<std::byte> dirt(pmem::kChunkBlocks * kBlockSize, std::byte{0xa5});
  medium->write(offset_of(PoolBlock(volume->superblock().inode_region_start + pmem::kChunkBlocks)),
                dirt);
  REQUIRE(allocate_many(volume->inodes(), 1024) == 1025);
  CHECK(volume->inodes().capacity() == 2048);
  CHECK(volume->inodes().load(InodeNumber(1025)).error().code == ENOENT);
  commit_file(*volume, InodeNumber(1025));

  const auto again = open_volume(*medium);
  CHECK(again->inodes().capacity() == 2048);
  CHECK(again->inodes().used() == 2);
}

TEST_CASE("when the region is full, chunks come from the data area and are found again") {
  const auto medium = make_pool(kLarge);
  std::uint64_t last = 0;
  std::uint64_t free_blocks = 0;
  std::uint64_t chunks = 0;
  {
    const auto volume = open_volume(*medium);
    chunks = volume->superblock().inode_region_chunks + 508 + 3;
    last = allocate_many(volume->inodes(), chunks * pmem::kChunkInodes - 1);
    REQUIRE(last == chunks * pmem::kChunkInodes);
    CHECK(volume->inodes().capacity() == last);
    free_blocks = volume->allocator().free_blocks().value;
    // 511 chunks and the two index blocks that list them.
    CHECK(volume->data_blocks().value - free_blocks == 511 * pmem::kChunkBlocks + 2);
    std::set<std::uint64_t> starts;
    for (std::uint64_t n = 1; n < last; n += pmem::kChunkInodes) {
      starts.insert(volume->inodes().slot(InodeNumber(n)).value);
    }
    CHECK(starts.size() == chunks);
    commit_file(*volume, InodeNumber(last));
    commit_file(*volume, InodeNumber(last - 300 * pmem::kChunkInodes));
  }
  {
    const auto volume = open_volume(*medium, 3);
    CHECK(volume->inodes().capacity() == last);
    CHECK(volume->inodes().used() == 3);
    CHECK(volume->inodes().load(InodeNumber(last)));
    CHECK(volume->allocator().free_blocks().value == free_blocks);
    // It goes on growing where it stopped.
    REQUIRE(allocate_many(volume->inodes(), last - 3 + 1) == last + 1);
    CHECK(volume->inodes().capacity() == last + pmem::kChunkInodes);
  }
}

TEST_CASE("a full pool refuses a chunk and loses nothing") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  InodeTable& inodes = volume->inodes();
  const std::uint64_t region = volume->superblock().inode_region_chunks * pmem::kChunkInodes;
  REQUIRE(allocate_many(inodes, region - 1) == region);

  // Room for the chunk, but not for the index block.
  std::vector<PoolRange> taken;
  const std::uint64_t left = volume->allocator().free_blocks().value - pmem::kChunkBlocks;
  REQUIRE(volume->allocator().allocate(BlockCount(left), PoolBlock(0), taken));
  for (int i = 0; i < 2; ++i) {
    CHECK(inodes.allocate().error().code == ENOSPC);
    CHECK(volume->allocator().free_blocks().value == pmem::kChunkBlocks);
    CHECK(inodes.capacity() == region);
  }
  inodes.release(InodeNumber(77));
  CHECK(inodes.allocate()->value == 77);
  free_ranges(*volume, taken);
  CHECK(inodes.allocate()->value == region + 1);
}

TEST_CASE("a damaged chunk index is refused") {
  const auto medium = make_pool(kLarge);
  {
    const auto volume = open_volume(*medium);
    const std::uint64_t chunks = volume->superblock().inode_region_chunks + 510;
    REQUIRE(allocate_many(volume->inodes(), chunks * pmem::kChunkInodes - 1) != 0);
  }
  auto state = medium->load<pmem::PoolState>(kState);
  const PoolOffset first = offset_of(PoolBlock(state.inode_index));
  auto index = medium->load<pmem::ChunkIndexBlock>(first);
  REQUIRE(index.count == 508);
  const auto put = [&] {
    seal(index, std::min<std::size_t>(sizeof index, 32 + 8ull * index.count));
    medium->write(first, std::as_bytes(std::span(&index, 1)));
  };
  const auto put_state = [&] {
    seal(state);
    medium->store(kState, std::as_bytes(std::span(&state, 1)));
  };
  REQUIRE(complaint(*medium).empty());

  SECTION("bits") {
    for (std::uint64_t bit = 0; bit < sizeof index * 8; bit += 97) {
      flip_bit(*medium, first + ByteCount(bit / 8), bit % 8);
      CHECK_FALSE(complaint(*medium, true).empty());
      flip_bit(*medium, first + ByteCount(bit / 8), bit % 8);
    }
  }
  SECTION("a loop") {
    index.next = state.inode_index;
    put();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("too many entries") {
    index.count = 509;
    put();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("a chunk outside the pool") {
    index.chunks[500] = medium->blocks().value - 10;
    put();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("a chunk twice") {
    index.chunks[500] = index.chunks[1] + 1;
    put();
    CHECK(complaint(*medium).find("used twice") != std::string::npos);
  }
  SECTION("no index") {
    state.inode_index = 0;
    put_state();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("an index that nobody needs") {
    state.inode_chunks = 1;
    put_state();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("more chunks than fit") {
    state.inode_chunks = ~0ull;
    put_state();
    CHECK_FALSE(complaint(*medium).empty());
  }
  SECTION("no chunks") {
    state.inode_chunks = 0;
    put_state();
    CHECK_FALSE(complaint(*medium).empty());
  }
}

TEST_CASE("threads get different inode numbers") {
  const auto medium = make_pool(kLarge);
  const auto volume = open_volume(*medium);
  std::vector<std::vector<std::uint64_t>> got(3);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : got) {
      threads.emplace_back([&mine, &volume] {
        for (int i = 0; i < 20000; ++i) {
          const auto number = volume->inodes().allocate();
          if (!number) return;
          if (i % 3 == 0) {
            volume->inodes().release(*number);
            continue;
          }
          static_cast<void>(volume->inodes().load(*number));
          mine.push_back(number->value);
        }
      });
    }
  }
  std::set<std::uint64_t> all;
  std::size_t count = 0;
  for (const auto& mine : got) {
    all.insert(mine.begin(), mine.end());
    count += mine.size();
  }
  CHECK(all.size() == count);
  CHECK(volume->inodes().used() == count + 1);
}
