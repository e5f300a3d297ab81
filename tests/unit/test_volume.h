// Pools in memory and files made by hand, for tests of what lies on the medium.
#pragma once

#include <sys/stat.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockmap/dir_entry.h"
#include "blockmap/directory.h"
#include "blockmap/extent_map.h"
#include "blockmap/medium/heap_medium.h"
#include "blockmap/volume/mkfs.h"
#include "blockmap/volume/volume.h"
#include "blockmap/xattr.h"
#include "tests/unit/catch.h"

namespace daxfs::test {

// Calls back at each fence, when everything stored so far is durable: a possible crash.
class FenceMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;
  void fence() override {
    if (on_fence) on_fence();
  }
  std::function<void()> on_fence;
};

inline std::unique_ptr<FenceMedium> blank(ByteCount size) {
  return std::make_unique<FenceMedium>(size);
}

inline std::unique_ptr<FenceMedium> make_pool(ByteCount size) {
  auto medium = blank(size);
  MakeOptions options{};
  options.uuid = {0xde, 0xad, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xff};
  REQUIRE(make_filesystem(*medium, options));
  return medium;
}

// The first `size` bytes of an image, or all of it.
inline std::unique_ptr<FenceMedium> copy_of(const Medium& medium,
                                            std::optional<ByteCount> size = {}) {
  auto copy = blank(size.value_or(medium.size()));
  copy->write(PoolOffset(0), {medium.at(PoolOffset(0)), copy->size().value});
  return copy;
}

inline void flip_bit(Medium& medium, PoolOffset at, unsigned bit) {
  const auto byte = medium.load<std::byte>(at) ^ std::byte(1u << bit);
  medium.store(at, std::span(&byte, 1));
}

inline std::unique_ptr<Volume> open_volume(Medium& medium, unsigned threads = 1) {
  auto volume = Volume::open(medium, "test.pool", false, threads);
  INFO((volume ? std::string() : volume.error().text));
  REQUIRE(volume);
  return std::move(*volume);
}

// What Volume::open() has to say against a pool; empty if nothing.
inline std::string complaint(Medium& medium, bool read_only = false, unsigned threads = 1) {
  const auto volume = Volume::open(medium, "test.pool", read_only, threads);
  return volume ? std::string() : volume.error().text;
}

struct OpenInode {
  InodeNumber number;
  pmem::InodeRecord record{};
  std::unique_ptr<ExtentMap> map;
  std::unique_ptr<Directory> directory;
};

inline OpenInode open_inode(Volume& volume, InodeNumber number) {
  OpenInode inode;
  inode.number = number;
  const auto record = volume.inodes().load(number);
  REQUIRE(record);
  inode.record = *record;
  auto map = ExtentMap::load(volume.medium(), volume.allocator(), number,
                             volume.inodes().slot(number), volume.data_area());
  REQUIRE(map);
  inode.map = std::make_unique<ExtentMap>(std::move(*map));
  if (S_ISDIR(inode.record.mode)) {
    auto directory = Directory::load(volume.medium(), volume.allocator(), number, *inode.map);
    REQUIRE(directory);
    inode.directory = std::move(*directory);
  }
  return inode;
}

inline void commit_record(Volume& volume, OpenInode& inode) {
  Transaction tx;
  volume.inodes().stage(tx, inode.number, inode.record);
  static_cast<void>(volume.journal().commit(tx));
}

inline OpenInode create(Volume& volume, OpenInode& parent, std::string_view name,
                        std::uint16_t mode) {
  const auto number = volume.inodes().allocate();
  REQUIRE(number);
  Transaction tx;
  REQUIRE(parent.directory->prepare_insert(tx, parent.record, name.size()));
  pmem::InodeRecord record{};
  record.generation = volume.inodes().next_generation(*number);
  record.mode = mode;
  record.links = S_ISDIR(mode) ? 2 : 1;
  if (S_ISDIR(mode)) {
    record.parent = parent.number.value;
    ++parent.record.links;
  }
  parent.directory->insert(tx, name, *number, entry_type(mode));
  volume.inodes().stage(tx, *number, record);
  volume.inodes().stage(tx, parent.number, parent.record);
  static_cast<void>(volume.journal().commit(tx));
  return open_inode(volume, *number);
}

inline void free_ranges(Volume& volume, const std::vector<PoolRange>& ranges) {
  for (const PoolRange& range : ranges) REQUIRE(volume.allocator().free(range));
}

// Takes a name away (and a link, if `inode` is given).
inline void unlink(Volume& volume, OpenInode& parent, std::string_view name, OpenInode* inode) {
  Transaction tx;
  std::vector<PoolRange> released;
  parent.directory->remove(tx, parent.record, name, released);
  if (inode != nullptr) {
    --inode->record.links;
    volume.inodes().stage(tx, inode->number, inode->record);
  }
  volume.inodes().stage(tx, parent.number, parent.record);
  static_cast<void>(volume.journal().commit(tx));
  free_ranges(volume, released);
}

// Maps one new block at each of the file blocks.
inline void map_blocks(Volume& volume, OpenInode& inode, const std::vector<std::uint64_t>& blocks) {
  for (const std::uint64_t block : blocks) {
    Transaction tx;
    std::vector<PoolRange> taken;
    REQUIRE(volume.allocator().allocate(BlockCount(1), PoolBlock(0), taken));
    REQUIRE(inode.map->reserve(inode.record, 1));
    inode.map->insert(tx, {FileBlock(block), taken.front().start, BlockCount(1), false});
    inode.record.blocks = inode.map->mapped().value;
    volume.inodes().stage(tx, inode.number, inode.record);
    static_cast<void>(volume.journal().commit(tx));
  }
}

// Mounted: /sub/deep/file.
struct SmallTree {
  std::unique_ptr<FenceMedium> medium = make_pool(ByteCount(8 << 20));
  std::unique_ptr<Volume> volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode sub = create(*volume, root, "sub", S_IFDIR | 0755);
  OpenInode deep = create(*volume, sub, "deep", S_IFDIR | 0755);
  OpenInode file = create(*volume, deep, "file", S_IFREG | 0644);

  // A further name, whether it makes sense or not.
  void add_name(OpenInode& directory, std::string_view name, InodeNumber inode, std::uint8_t type) {
    Transaction tx;
    REQUIRE(directory.directory->prepare_insert(tx, directory.record, name.size()));
    directory.directory->insert(tx, name, inode, type);
    volume->inodes().stage(tx, directory.number, directory.record);
    static_cast<void>(volume->journal().commit(tx));
  }
};

// A few of everything. Returns the number of inodes, the root included.
inline std::uint64_t populate(Volume& volume) {
  OpenInode root = open_inode(volume, kRootInode);
  OpenInode sub = create(volume, root, "sub", S_IFDIR | 0755);
  OpenInode small = create(volume, root, "small", S_IFREG | 0644);
  map_blocks(volume, small, {0, 1, 5});
  OpenInode large = create(volume, sub, std::string(255, 'l'), S_IFREG | 0600);
  std::vector<std::uint64_t> places;
  for (std::uint64_t i = 0; i < 300; ++i) places.push_back(3 * i);
  map_blocks(volume, large, places);
  OpenInode tagged = create(volume, sub, "tagged", S_IFREG | 0600);
  std::vector<PoolRange> released;
  REQUIRE(replace_xattrs(volume.medium(), volume.allocator(), tagged.number, tagged.record,
                         {{"user.a", "b"}, {"user.c", std::string(5000, 'd')}}, released));
  commit_record(volume, tagged);
  create(volume, sub, "fifo", S_IFIFO | 0600);
  for (int i = 0; i < 100; ++i) create(volume, sub, "f" + std::to_string(i), S_IFREG | 0600);
  return 1 + 5 + 100;
}

inline pmem::Superblock superblock(const Medium& medium) {
  return medium.load<pmem::Superblock>(PoolOffset(0));
}

}  // namespace daxfs::test
