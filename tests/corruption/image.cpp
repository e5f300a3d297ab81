#include "tests/corruption/image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <stdexcept>

#include "base/process_identity.h"
#include "blockmap/acl.h"
#include "blockmap/extent_map.h"
#include "blockmap/layout.h"
#include "blockmap/pin_record_scan.h"
#include "blockmap/volume/detach.h"
#include "blockmap/xattr.h"
#include "tests/model/mounted.h"

namespace daxfs::corruption {
namespace {

constexpr ByteCount kPoolBytes(8 << 20);

template <class T>
T need(std::expected<T, Errno> result, const char* what) {
  if (result) return std::move(*result);
  throw std::runtime_error(fmt::format("{}: {}", what, strerrorname_np(result.error().code)));
}
void need(const Status& result, const char* what) {
  if (!result) {
    throw std::runtime_error(fmt::format("{}: {}", what, strerrorname_np(result.error().code)));
  }
}

std::string pattern(std::uint64_t seed, std::size_t length) {
  std::string out(length, '\0');
  std::mt19937_64 random(seed);
  for (char& c : out) c = static_cast<char>('a' + random() % 26);
  return out;
}

class Populate {
 public:
  explicit Populate(Filesystem& fs) : fs_(fs) {}

  InodeNumber directory(InodeNumber parent, const std::string& name) {
    return need(testing::number_of(fs_, fs_.names().make_directory(parent, name, 0755, caller_)),
                "mkdir");
  }
  InodeNumber file(InodeNumber parent, const std::string& name, std::size_t length) {
    const auto inode = need(
        testing::number_of(fs_, fs_.names().make_node(parent, name, S_IFREG | 0640, 0, caller_)),
        "create");
    if (length != 0) write(inode, 0, length);
    return inode;
  }
  void write(InodeNumber inode, std::uint64_t offset, std::size_t length) {
    auto open = need(fs_.files().open(inode, O_RDWR), "open");
    need(testing::write(fs_, *open, offset, pattern(inode.value * 1000 + offset, length)), "write");
    fs_.files().release(std::move(open));
  }
  // One extent a block, with holes between.
  InodeNumber scattered(InodeNumber parent, const std::string& name, unsigned blocks) {
    const auto inode = file(parent, name, 0);
    for (unsigned i = 0; i < blocks; ++i) write(inode, 2 * i * kBlockSize, kBlockSize);
    return inode;
  }
  void link_to(InodeNumber parent, const std::string& name, const std::string& target) {
    need(testing::number_of(fs_, fs_.names().make_symlink(parent, name, target, caller_)),
         "symlink");
  }
  void hard_link(InodeNumber inode, InodeNumber parent, const std::string& name) {
    need(testing::number_of(fs_, fs_.names().link(inode, parent, name)), "link");
  }
  void attribute(InodeNumber inode, const std::string& name, std::size_t length) {
    need(fs_.xattrs().set(inode, name, pattern(length, length), 0, caller_), "setxattr");
  }
  // Gives somebody a list.
  void list(InodeNumber inode, std::string_view name) {
    static constexpr std::string_view kValue(
        "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\7\0\x92\x10\0\0\4\0\4\0\xff\xff\xff\xff"
        "\x10\0\5\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
        44);
    need(fs_.xattrs().set(inode, std::string(name), kValue, 0, caller_), "setxattr");
  }
  void everything() {
    const auto docs = directory(kRootInode, "docs");
    const auto deep = directory(directory(docs, "deep"), "deeper");
    for (unsigned i = 0; i < 20; ++i) {
      file(docs, fmt::format("file{}", i), 700 * i);
      file(deep,
           fmt::format("a-rather-long-name-that-takes-more-than-one-granule-of-a-block-{}", i),
           9000);
    }
    const auto big = file(kRootInode, "big", 300'000);
    hard_link(big, deep, "big-too");
    attribute(big, "user.short", 10);
    attribute(big, "user.long", 6000);
    attribute(docs, "user.of-directory", 100);
    list(big, kAccessAcl);
    list(docs, kDefaultAcl);
    file(docs, "inherits", 100);
    scattered(kRootInode, "scattered", 60);
    scattered(deep, "chained", 180);
    link_to(kRootInode, "link", "docs/file3");
    link_to(deep, "long-link", pattern(7, 900));
    need(testing::number_of(fs_, fs_.names().make_node(docs, "pipe", S_IFIFO | 0600, 0, caller_)),
         "mknod");
    auto open = need(fs_.files().open(file(docs, "reserved", 5000), O_RDWR), "open");
    need(fs_.space().allocate(*open, FileOffset(8192), ByteCount(40'000), false), "fallocate");
    fs_.files().release(std::move(open));
  }

 private:
  Filesystem& fs_;
  const Caller caller_{.uid = 0, .gid = 0};
};

void learn(Image& image) {
  testing::Mounted mounted(*image.medium, testing::mount_options(PinPolicy::refuse));
  Volume& volume = *mounted.volume;
  image.super = volume.superblock();
  image.region_inodes = image.super.inode_region_chunks * pmem::kChunkInodes;
  const auto state = image.medium->load<pmem::PoolState>(offset_of(kStateBlock));
  for (std::uint64_t block = state.inode_index; block != 0;) {
    const auto index = image.medium->load<pmem::ChunkIndexBlock>(offset_of(PoolBlock(block)));
    image.index_blocks.push_back(PoolBlock(block));
    image.used_blocks.push_back(PoolBlock(block));
    for (std::uint32_t i = 0; i < index.count; ++i) {
      image.used_blocks.push_back(PoolBlock(index.chunks[i]));
    }
    block = index.next;
  }
  const auto add = [&](Known& known, PoolRange run) {
    known.bytes.push_back({offset_of(run.start).value, offset_of(run.end()).value});
    for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
      image.used_blocks.push_back(at);
    }
  };
  for (std::uint64_t n = 1; n <= volume.inodes().capacity(); ++n) {
    const InodeNumber inode(n);
    if (!volume.inodes().load(inode)) continue;
    Known known = read_inode(*mounted.fs, inode);
    known.record = *volume.inodes().load(inode);
    known.slot = volume.inodes().slot(inode);
    known.bytes.push_back({known.slot.value, known.slot.value + pmem::kInodeBytes});
    const auto map =
        ExtentMap::load(volume.medium(), volume.allocator(), inode, known.slot, volume.data_area());
    for (const PoolRange& run : map->physical(to_end(FileBlock(0)))) add(known, run);
    for (const PoolBlock block : map->chain()) {
      known.chain.push_back(block);
      add(known, {block, BlockCount(1)});
    }
    if (const PoolRange run = xattr_run(known.record); !run.empty()) add(known, run);
    image.inodes.emplace(n, std::move(known));
  }
  mounted.fs->unmount();
}

class PinMaker {
 public:
  PinMaker(Image& image, Volume& volume) : image_(image), volume_(volume) {
    gone_.boot.fill(std::byte{0x77});
  }

  // The region of these pools has one block of records: with so many, they go on in the data area.
  void everything() {
    const std::vector<PoolRange> big = blocks_of("big");
    const std::vector<PoolRange> chained = blocks_of("chained");
    for (unsigned i = 0; i < 45; ++i) {
      keep(limbo(1 + i % 3), true);
      if (i % 4 == 0) keep({big.front()}, false);
      if (i % 3 == 0) add(gone_, limbo(1));
    }
    keep(limbo(20), true);
    keep({chained.begin(), chained.begin() + 30}, false);
    add(gone_, {chained.begin(), chained.begin() + 10});
  }

  // As a crash leaves one that was being written.
  void torn() {
    const PinSlot slot = add(living_, limbo(9));
    const auto head = image_.medium->load<pmem::PinHead>(offset_of(slot));
    image_.medium->store_u64(offset_of(PinSlot{head.next}), 0);
  }

  // Once all are there.
  void learn_slots() {
    image_.pin_slots.clear();
    PinRecordScan scan(volume_.medium(), volume_.superblock());
    if (const auto read = scan.read_headers(); !read) throw std::runtime_error(read.error().text);
    const PoolBlock region(volume_.superblock().pin_region_start);
    for (std::uint64_t i = 0; i < scan.ready_blocks(); ++i) learn_block(region + BlockCount(i));
    for (const PoolBlock block : scan.chain()) {
      image_.used_blocks.push_back(block);
      learn_block(block);
    }
    scan.for_each([&](RecordedPin&& found, std::span<const PinSlot> slots) {
      const auto pin = std::ranges::find(image_.pins, found.slot, &KnownPin::slot);
      if (pin == image_.pins.end()) return;
      pin->slots.assign(slots.begin(), slots.end());
      pin->bytes.clear();
      for (const PinSlot slot : slots) {
        const std::uint64_t at = offset_of(slot).value;
        pin->bytes.push_back({at, at + pmem::kPinSlotBytes});
      }
    });
  }

 private:
  PinSlot add(const PinOwner& owner, const std::vector<PoolRange>& blocks) {
    PinRecord pin;
    pin.owner = owner;
    pin.inode = InodeNumber(2);
    pin.generation = 1;
    pin.length = ByteCount(kBlockSize);
    pin.pin_id = image_.pins.size() * 2 + (owner == living_ ? 1 : 2);
    pin.write = true;
    return need(volume_.pin_records().add(pin, blocks), "pin");
  }
  void keep(std::vector<PoolRange> blocks, bool limbo) {
    image_.pins.push_back({add(living_, blocks), std::move(blocks), limbo, {}, {}});
  }
  std::vector<PoolRange> limbo(std::size_t runs) {
    std::vector<PoolRange> taken;
    for (std::size_t i = 0; i < runs; ++i) {
      taken.push_back(need(volume_.allocator().allocate_run(BlockCount(1)), "allocate"));
      const PoolBlock block = taken.back().start;
      const std::string content = pattern(block.value, kBlockSize);
      image_.medium->write(offset_of(block), std::as_bytes(std::span(content)));
      image_.used_blocks.push_back(block);
    }
    return taken;
  }
  std::vector<PoolRange> blocks_of(const std::string& name) {
    for (const auto& [number, directory] : image_.inodes) {
      const auto entry = directory.entries.find(name);
      if (entry == directory.entries.end()) continue;
      const InodeNumber inode(entry->second);
      const auto map = need(ExtentMap::load(*image_.medium, volume_.allocator(), inode,
                                            volume_.inodes().slot(inode), volume_.data_area()),
                            "load");
      return map.physical(to_end(FileBlock(0)));
    }
    throw std::runtime_error("there is no " + name);
  }
  void learn_block(PoolBlock block) {
    for (std::uint64_t index = 0; index < pmem::kPinSlotsPerBlock; ++index) {
      const PinSlot slot = slot_of(block, index);
      if (image_.medium->load<std::uint64_t>(offset_of(slot)) != 0) {
        image_.pin_slots.push_back(slot);
      }
    }
  }

  Image& image_;
  Volume& volume_;
  const PinOwner living_ = need(identify_process(::getpid(), ::getuid()), "identity");
  PinOwner gone_{4711, 1, {}, 0};
};

std::unique_ptr<Volume> open_volume(Image& image) {
  auto volume = Volume::open(*image.medium, "pool", false, 1);
  if (!volume) throw std::runtime_error(volume.error().text);
  return std::move(*volume);
}

void add_pins(Image& image) {
  const auto volume = open_volume(image);
  PinMaker pins(image, *volume);
  pins.everything();
  pins.learn_slots();
  volume->close_clean();
}

Image blank(const char* name) {
  Image image;
  image.name = name;
  image.medium = std::make_unique<testing::ReversibleMedium>(kPoolBytes);
  testing::format_medium(*image.medium);
  return image;
}

}  // namespace

Known read_inode(Filesystem& fs, InodeNumber inode) {
  Known known;
  const auto st = need(fs.attributes().get(inode), "attributes");
  for (const std::string& name : need(fs.xattrs().list(inode), "listxattr")) {
    const auto value = fs.xattrs().get(inode, name);
    // A forged name can be of a namespace that nobody knows.
    if (!value && value.error().code == EOPNOTSUPP) continue;
    known.xattrs[name] = need(value, "getxattr");
  }
  if (S_ISLNK(st.st_mode)) known.content = need(fs.names().read_symlink(inode), "readlink");
  if (S_ISDIR(st.st_mode)) {
    need(fs.names().read_directory(inode, 2,
                                   [&](const Names::DirectoryEntry& entry) {
                                     known.entries[std::string(entry.name)] = entry.inode.value;
                                     return true;
                                   }),
         "readdir");
  }
  if (S_ISREG(st.st_mode)) {
    // A damaged size can be anything: what lies behind the first megabyte is a hole in these files.
    const auto size = std::min<std::uint64_t>(static_cast<std::uint64_t>(st.st_size), 2 << 20);
    auto open = need(fs.files().open(inode, O_RDONLY), "open");
    while (known.content.size() < size) {
      known.content +=
          need(testing::read(fs, *open, known.content.size(), size - known.content.size()), "read");
    }
    fs.files().release(std::move(open));
  }
  return known;
}

Image make_small_image() {
  Image image = blank("small");
  {
    testing::Mounted mounted(*image.medium, testing::mount_options(PinPolicy::refuse));
    Populate(*mounted.fs).everything();
    mounted.fs->unmount();
  }
  learn(image);
  add_pins(image);
  return image;
}

Image make_wide_image() {
  Image image = blank("wide");
  {
    testing::Mounted mounted(*image.medium, testing::mount_options(PinPolicy::refuse));
    Populate populate(*mounted.fs);
    const auto many = populate.directory(kRootInode, "many");
    for (unsigned i = 0; i < 1020; ++i) populate.file(many, fmt::format("{}", i), 0);
    populate.everything();
    mounted.fs->unmount();
  }
  learn(image);
  add_pins(image);
  return image;
}

Image make_interrupted_image() {
  Image image = make_small_image();
  image.name = "interrupted";
  const auto volume = open_volume(image);
  PinMaker pins(image, *volume);
  pins.torn();
  pins.learn_slots();
  // A truncation that stopped after its first transaction. Some of what it takes is pinned.
  for (auto& [number, known] : image.inodes) {
    const InodeNumber inode(number);
    auto record = known.record;
    if (!S_ISREG(record.mode) || record.links != 1 || known.chain.empty()) continue;
    record.detach_begin = 100;
    record.detach_end = pmem::kDetachToEnd;
    record.size = 100 * kBlockSize;
    known.content.resize(record.size);
    Transaction tx;
    volume->inodes().stage(tx, inode, record);
    static_cast<void>(volume->journal().commit(tx));
    known.record = record;
    break;
  }
  return image;
}

}  // namespace daxfs::corruption
