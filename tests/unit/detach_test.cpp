#include "blockmap/volume/detach.h"

#include <algorithm>
#include <random>
#include <set>

#include "blockmap/volume/check.h"
#include "blockmap/xattr.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSize(8 << 20);
constexpr std::uint64_t kManyExtents = 700;  // of one block each, at the even file blocks

FileRange blocks(std::uint64_t begin, std::uint64_t end) {
  return {FileBlock(begin), BlockCount(end - begin)};
}

struct Fixture {
  std::unique_ptr<FenceMedium> medium = make_pool(kSize);
  std::unique_ptr<Volume> volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
  std::vector<PoolRange> removed;

  void fragment() {
    std::vector<std::uint64_t> places(kManyExtents);
    for (std::uint64_t i = 0; i < kManyExtents; ++i) places[i] = 2 * i;
    map_blocks(*volume, file, places);
    REQUIRE(file.map->size() == kManyExtents);
  }
  void detach(FileRange range) {
    REQUIRE(prepare_detach(*volume, file.number, file.record, *file.map, range));
    REQUIRE(detach_extents(*volume, file.number, file.record, *file.map, range, removed));
  }
  std::uint64_t free_blocks() const { return volume->allocator().free_blocks().value; }
  std::uint64_t removed_blocks() const {
    std::uint64_t sum = 0;
    for (const PoolRange& range : removed) sum += range.count.value;
    return sum;
  }
  void require_sound() {
    const CheckReport report = check_volume(*medium, "test.pool");
    for (const std::string& error : report.errors) UNSCOPED_INFO(error);
    REQUIRE(report.ok());
  }
};

std::set<std::uint64_t> mapped_blocks(const ExtentMap& map) {
  std::set<std::uint64_t> out;
  map.for_each(to_end(FileBlock(0)), [&](const Extent& e) {
    for (std::uint64_t i = 0; i < e.count.value; ++i) out.insert(e.file.value + i);
  });
  return out;
}

}  // namespace

TEST_CASE_METHOD(Fixture, "a small detach is one transaction, with the caller's record") {
  map_blocks(*volume, file, {0, 1, 2, 3, 10});
  file.record.size = 11 * kBlockSize;
  commit_record(*volume, file);
  const std::uint64_t before = free_blocks();

  file.record.size = kBlockSize;
  file.record.mtime_ns = 99;
  int fences = 0;
  medium->on_fence = [&] { ++fences; };
  detach(to_end(FileBlock(1)));
  medium->on_fence = nullptr;
  CHECK(fences == 3);
  CHECK(removed_blocks() == 4);
  CHECK(free_blocks() == before);  // data blocks are the caller's business

  const OpenInode again = open_inode(*volume, file.number);
  CHECK(mapped_blocks(*again.map) == std::set<std::uint64_t>{0});
  CHECK(again.record.size == kBlockSize);
  CHECK(again.record.mtime_ns == 99);
  CHECK(again.record.blocks == 1);
  CHECK(again.record.detach_end == 0);
  require_sound();
}

TEST_CASE_METHOD(Fixture, "a detach of nothing still commits the record") {
  map_blocks(*volume, file, {0, 1, 2, 3});
  const FileRange range = GENERATE(blocks(2, 2), blocks(9, 20), to_end(FileBlock(4)));
  file.record.size = 4711;
  detach(range);
  CHECK(removed.empty());
  CHECK(open_inode(*volume, file.number).record.size == 4711);
  CHECK(file.map->mapped().value == 4);
}

TEST_CASE_METHOD(Fixture, "punching inside one extent takes the slot that was prepared") {
  map_blocks(*volume, file, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 30, 40});
  REQUIRE(file.map->size() == 4);  // all inline slots
  REQUIRE(file.record.extent_block == 0);
  const std::uint64_t before = free_blocks();
  detach(blocks(3, 5));
  CHECK(file.map->size() == 5);
  CHECK(file.record.extent_block != 0);
  CHECK(free_blocks() == before - 1);
  CHECK(mapped_blocks(*open_inode(*volume, file.number).map) ==
        std::set<std::uint64_t>{0, 1, 2, 5, 6, 7, 8, 9, 20, 30, 40});
  require_sound();

  SECTION("the chain goes with the last extent") {
    free_ranges(*volume, removed);
    removed.clear();
    detach(to_end(FileBlock(0)));
    CHECK(file.record.extent_block == 0);
    free_ranges(*volume, removed);
    CHECK(free_blocks() == before + 13);
    require_sound();
  }
}

TEST_CASE_METHOD(Fixture, "a full pool refuses to prepare a split and changes nothing") {
  map_blocks(*volume, file, {0, 1, 2, 10, 20, 30});
  std::vector<PoolRange> taken;
  REQUIRE(volume->allocator().allocate(BlockCount(free_blocks()), PoolBlock(0), taken));
  const pmem::InodeRecord before = file.record;
  CHECK(prepare_detach(*volume, file.number, file.record, *file.map, blocks(1, 2)).error().code ==
        ENOSPC);
  CHECK(std::memcmp(&before, &file.record, sizeof before) == 0);
  CHECK(file.map->size() == 4);
  // What splits nothing needs nothing.
  detach(blocks(0, 2));
  detach(blocks(10, 11));
  CHECK(removed_blocks() == 3);
}

TEST_CASE_METHOD(Fixture, "a long detach is finished by the next mount, wherever it stopped") {
  fragment();
  const FileRange range =
      GENERATE(blocks(0, 1100), blocks(7, 1390), to_end(FileBlock(0)), to_end(FileBlock(200)));
  const std::set<std::uint64_t> before = mapped_blocks(*file.map);
  std::set<std::uint64_t> after;
  std::ranges::copy_if(before, std::inserter(after, after.end()), [&](std::uint64_t b) {
    return FileBlock(b) < range.start || FileBlock(b) >= range.end();
  });
  file.record.size = 5 * kBlockSize + 1;

  std::vector<std::unique_ptr<FenceMedium>> crashes;
  crashes.push_back(copy_of(*medium));
  medium->on_fence = [&] { crashes.push_back(copy_of(*medium)); };
  detach(range);
  medium->on_fence = nullptr;
  REQUIRE(crashes.size() > 12);  // several batches of three fences each
  CHECK(removed_blocks() == before.size() - after.size());
  CHECK(mapped_blocks(*file.map) == after);
  require_sound();

  bool begun = false;
  int finished = 0;
  for (const auto& crash : crashes) {
    const auto recovered = open_volume(*crash);
    finished += static_cast<int>(recovered->report().detaches_finished);
    const OpenInode found = open_inode(*recovered, file.number);
    const bool changed = found.record.size == file.record.size;
    CHECK(changed >= begun);  // never undone again
    begun = changed;
    REQUIRE(mapped_blocks(*found.map) == (changed ? after : before));
    CHECK(found.record.detach_end == 0);
    CHECK(found.record.detach_begin == 0);
    CHECK(found.record.blocks == found.map->mapped().value);
    const CheckReport report = check_volume(*crash, "crash");
    for (const std::string& error : report.errors) UNSCOPED_INFO(error);
    REQUIRE(report.ok());
    // What became free is what the mount's own scan finds free.
    CHECK(report.free_blocks == recovered->allocator().free_blocks().value);
  }
  CHECK(begun);
  CHECK(finished > 3);
}

TEST_CASE_METHOD(Fixture, "random detaches agree with a set of blocks") {
  std::mt19937_64 random(GENERATE(11u, 12u));
  std::set<std::uint64_t> model;
  for (int step = 0; step < 300; ++step) {
    std::vector<std::uint64_t> fresh;
    const std::uint64_t at = random() % 60;
    for (std::uint64_t b = at; b < at + random() % 12; ++b) {
      if (model.insert(b).second) fresh.push_back(b);
    }
    map_blocks(*volume, file, fresh);
    const std::uint64_t begin = random() % 70;
    const FileRange range =
        random() % 8 == 0 ? to_end(FileBlock(begin)) : blocks(begin, begin + random() % 9);
    removed.clear();
    detach(range);
    const std::size_t count = std::erase_if(model, [&](std::uint64_t b) {
      return FileBlock(b) >= range.start && FileBlock(b) < range.end();
    });
    REQUIRE(removed_blocks() == count);
    free_ranges(*volume, removed);
    REQUIRE(mapped_blocks(*file.map) == model);
    if (step % 20 == 0) {
      file = open_inode(*volume, file.number);
      REQUIRE(mapped_blocks(*file.map) == model);
      require_sound();
    }
  }
}

TEST_CASE_METHOD(Fixture, "freeing an inode gives everything back in one step") {
  const std::uint64_t before = free_blocks();
  fragment();
  REQUIRE(replace_xattrs(*medium, volume->allocator(), file.number, file.record,
                         {{"user.long", std::string(9000, 'x')}}, removed));
  commit_record(*volume, file);
  unlink(*volume, root, "file", &file);
  const std::uint32_t generation = file.record.generation;

  std::vector<std::unique_ptr<FenceMedium>> crashes;
  medium->on_fence = [&] { crashes.push_back(copy_of(*medium)); };
  REQUIRE(free_inode(*volume, file.number, file.record, *file.map, removed));
  medium->on_fence = nullptr;
  CHECK(crashes.size() == 3);
  CHECK(removed_blocks() == kManyExtents);
  CHECK(file.map->size() == 0);
  free_ranges(*volume, removed);
  CHECK(free_blocks() == before + 1);  // the root directory's block, too
  CHECK(volume->inodes().used() == 1);
  CHECK(volume->inodes().allocate()->value == file.number.value);
  CHECK(volume->inodes().next_generation(file.number) == generation + 1);
  require_sound();
  for (const auto& crash : crashes) {
    CHECK(open_volume(*crash)->allocator().free_blocks() == volume->allocator().free_blocks());
  }
}
