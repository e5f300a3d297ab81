#include "blockmap/directory.h"

#include <absl/container/btree_map.h>
#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_set.h>
#include <absl/hash/hash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/require.h"
#include "blockmap/dir_entry.h"

namespace daxfs {
namespace {

using pmem::DirEntryHeader;
using pmem::kGranuleBytes;
using pmem::kGranulesPerBlock;

constexpr std::uint64_t kFirstCookie = 3;
constexpr unsigned kMaxGranules = 5;
static_assert((sizeof(DirEntryHeader) + pmem::kMaxName + kGranuleBytes - 1) / kGranuleBytes ==
              kMaxGranules);
// A place is block * 64 + granule; blocks are 32 bits wide so that a cookie fits any off_t.
constexpr std::uint64_t kMaxBlocks = std::numeric_limits<std::uint32_t>::max();
// Holes that are remembered for reuse: bounds what a hostile sparse directory can make us keep.
constexpr std::size_t kMaxHoles = 1 << 20;

constexpr std::uint64_t granule_mask(unsigned first, unsigned count) {
  return ((1ull << count) - 1) << first;
}

// Bits where a run of `count` free granules begins.
constexpr std::uint64_t run_starts(std::uint64_t occupied, unsigned count) {
  const std::uint64_t free = ~occupied;
  std::uint64_t starts = free;
  for (unsigned i = 1; i < count; ++i) starts &= free >> i;
  return starts;
}

constexpr unsigned longest_run(std::uint64_t occupied) {
  unsigned length = 0;
  while (length < kMaxGranules && run_starts(occupied, length + 1) != 0) ++length;
  return length;
}

std::uint32_t hash_of(std::string_view name) {
  return static_cast<std::uint32_t>(absl::Hash<std::string_view>{}(name));
}

}  // namespace

struct Directory::Index {
  // 16 bytes an entry. The hash is kept beside the place because rehashing must not read names,
  // which may only be staged yet; both places, so that a lookup goes straight to the name.
  struct Element {
    std::uint64_t granule;  // of the pool: offset / 64
    std::uint32_t block;    // of the directory
    std::uint32_t hash;

    std::uint64_t place() const { return block * kGranulesPerBlock + granule % kGranulesPerBlock; }
    PoolOffset offset() const { return PoolOffset(granule * kGranuleBytes); }
  };
  struct Key {
    std::uint32_t hash;
    std::string_view name;
  };
  struct Hash {
    using is_transparent = void;
    // The table takes its low bits from one end and the bucket from the other.
    static std::size_t spread(std::uint32_t hash) { return hash * 0x9e3779b97f4a7c15ull; }
    std::size_t operator()(const Element& e) const { return spread(e.hash); }
    std::size_t operator()(const Key& k) const { return spread(k.hash); }
  };
  struct Equal {
    using is_transparent = void;
    const Medium* medium;
    bool operator()(const Element& a, const Element& b) const { return a.granule == b.granule; }
    bool operator()(const Element& e, const Key& k) const {
      return e.hash == k.hash && name_at(*medium, e.offset()) == k.name;
    }
    bool operator()(const Key& k, const Element& e) const { return (*this)(e, k); }
  };
  struct Block {
    PoolBlock pool;
    std::uint64_t occupied = 0;  // granules in use
    std::uint64_t starts = 0;    // granules where an entry begins
  };

  explicit Index(const Medium& pool) : medium(pool), names(0, Hash{}, Equal{&pool}) {}
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  const Medium& medium;
  absl::flat_hash_set<Element, Hash, Equal> names;
  absl::btree_map<std::uint32_t, Block> blocks;  // every block that the directory has
  // Blocks by their longest run of free granules (0 .. 5, longer counts as 5).
  std::array<absl::btree_set<std::uint32_t>, kMaxGranules + 1> room;
  absl::btree_set<std::uint32_t> holes;  // below the highest block
  // The block that the coming insert() goes to: it stays even if a remove() between empties it.
  std::optional<std::uint32_t> prepared;

  const Element* find(std::string_view name) const {
    const auto found = names.find(Key{hash_of(name), name});
    return found == names.end() ? nullptr : &*found;
  }
  Entry entry_at(PoolOffset at, std::uint64_t place) const {
    const auto header = medium.load<DirEntryHeader>(at);
    return {InodeNumber(header.inode), header.type, name_at(medium, at), place + kFirstCookie};
  }
  void set_occupied(std::uint32_t number, Block& block, std::uint64_t occupied) {
    const unsigned before = longest_run(block.occupied);
    const unsigned after = longest_run(occupied);
    block.occupied = occupied;
    if (before == after) return;
    room[before].erase(number);
    room[after].insert(number);
  }
  void add_block(std::uint32_t number, PoolBlock pool) {
    blocks[number] = Block{pool};
    room[kMaxGranules].insert(number);
  }
  void drop_block(std::uint32_t number) {
    const auto it = blocks.find(number);
    room[longest_run(it->second.occupied)].erase(number);
    blocks.erase(it);
  }
  std::optional<std::uint32_t> block_with_room(unsigned granules) const {
    for (unsigned n = granules; n <= kMaxGranules; ++n) {
      if (!room[n].empty()) return *room[n].begin();
    }
    return std::nullopt;
  }
  bool parse_block(InodeNumber directory, std::uint32_t number, PoolBlock pool);
};

// Enters a block as it lies on the medium. False if anything in it is damaged.
bool Directory::Index::parse_block(InodeNumber directory, std::uint32_t number, PoolBlock pool) {
  add_block(number, pool);
  Block& block = blocks.find(number)->second;
  std::uint64_t occupied = 0;
  for (unsigned granule = 0; granule < kGranulesPerBlock;) {
    const PoolOffset at = granule_offset(pool, granule);
    const auto header = medium.load<DirEntryHeader>(at);
    if (is_free(header)) {
      ++granule;
      continue;
    }
    if (!is_sound_entry(medium, directory, pool, granule)) return false;
    const std::string_view name = name_at(medium, at);
    if (find(name) != nullptr) return false;
    names.insert(Element{at.value / kGranuleBytes, number, hash_of(name)});
    block.starts |= 1ull << granule;
    occupied |= granule_mask(granule, header.granules);
    granule += header.granules;
  }
  set_occupied(number, block, occupied);
  return true;
}

Directory::Directory(Medium& medium, Allocator& allocator, InodeNumber inode, ExtentMap& extents)
    : medium_(medium),
      allocator_(allocator),
      inode_(inode),
      extents_(extents),
      index_(std::make_unique<Index>(medium)) {}

Directory::~Directory() = default;

Result<std::unique_ptr<Directory>> Directory::load(Medium& medium, Allocator& allocator,
                                                   InodeNumber inode, ExtentMap& extents) {
  std::unique_ptr<Directory> directory(new Directory(medium, allocator, inode, extents));
  Index& index = *directory->index_;
  bool good = true;
  std::uint64_t end = 0;
  const FileRange everything{FileBlock(0), BlockCount(~0ull)};
  extents.for_each(everything, [&](const Extent& extent) {
    if (!good || extent.unwritten || extent.end().value > kMaxBlocks) {
      good = false;
      return;
    }
    for (; end < extent.file.value && index.holes.size() < kMaxHoles; ++end) {
      index.holes.insert(static_cast<std::uint32_t>(end));
    }
    for (std::uint64_t i = 0; good && i < extent.count.value; ++i) {
      good = index.parse_block(inode, static_cast<std::uint32_t>(extent.file.value + i),
                               extent.pool + BlockCount(i));
    }
    end = extent.end().value;
  });
  if (!good) return fail(EUCLEAN);
  return directory;
}

std::optional<Directory::Entry> Directory::find(std::string_view name) const {
  const Index::Element* found = index_->find(name);
  if (found == nullptr) return std::nullopt;
  return index_->entry_at(found->offset(), found->place());
}

bool Directory::empty() const { return index_->names.empty(); }
std::size_t Directory::size() const { return index_->names.size(); }

std::optional<Directory::Entry> Directory::next(std::uint64_t cookie) const {
  const std::uint64_t from = cookie < kFirstCookie ? 0 : cookie - kFirstCookie + 1;
  if (from / kGranulesPerBlock >= kMaxBlocks) return std::nullopt;
  const auto first = static_cast<std::uint32_t>(from / kGranulesPerBlock);
  for (auto it = index_->blocks.lower_bound(first); it != index_->blocks.end(); ++it) {
    std::uint64_t starts = it->second.starts;
    if (it->first == first) starts &= ~0ull << (from % kGranulesPerBlock);
    if (starts == 0) continue;
    const auto granule = static_cast<std::uint64_t>(std::countr_zero(starts));
    return index_->entry_at(granule_offset(it->second.pool, granule),
                            it->first * kGranulesPerBlock + granule);
  }
  return std::nullopt;
}

std::uint64_t Directory::starts_in(FileBlock block) const {
  if (block.value >= kMaxBlocks) return 0;
  const auto found = index_->blocks.find(static_cast<std::uint32_t>(block.value));
  return found == index_->blocks.end() ? 0 : found->second.starts;
}

Status Directory::prepare_insert(Transaction& tx, pmem::InodeRecord& record,
                                 std::size_t name_length) {
  DAXFS_REQUIRE(name_length >= 1 && name_length <= pmem::kMaxName,
                "directory {}: a name of {} bytes", inode_.value, name_length);
  const unsigned granules = granules_for(name_length);
  if (const auto block = index_->block_with_room(granules)) {
    index_->prepared = *block;
    return {};
  }
  const auto last = extents_.last();
  const std::uint64_t end = last ? last->end().value : 0;
  const std::uint64_t place = index_->holes.empty() ? end : *index_->holes.begin();
  if (place >= kMaxBlocks) return fail(ENOSPC);

  PoolBlock goal(0);
  if (place > 0) {
    const auto before = extents_.run_at(FileBlock(place - 1), BlockCount(1)).pool;
    if (before) goal = *before + BlockCount(1);
  }
  std::vector<PoolRange> taken;
  if (const auto got = allocator_.allocate(BlockCount(1), goal, taken); !got) return got;
  if (const auto reserved = extents_.reserve(record, 1); !reserved) {
    // Just allocated, so it cannot overlap free space.
    static_cast<void>(allocator_.free(taken.front()));
    return reserved;
  }
  const PoolBlock pool = taken.front().start;
  medium_.zero(offset_of(pool), bytes(BlockCount(1)));
  medium_.fence();
  extents_.insert(tx, {FileBlock(place), pool, BlockCount(1), false});
  record.blocks = extents_.mapped().value;
  record.size = std::max(record.size, bytes(BlockCount(place + 1)).value);

  const auto number = static_cast<std::uint32_t>(place);
  index_->holes.erase(number);
  index_->add_block(number, pool);
  index_->prepared = number;
  return {};
}

void Directory::insert(Transaction& tx, std::string_view name, InodeNumber inode,
                       std::uint8_t type) {
  const unsigned granules = granules_for(name.size());
  const auto prepared = std::exchange(index_->prepared, std::nullopt);
  DAXFS_REQUIRE(prepared.has_value(), "directory {}: no room was prepared for a name",
                inode_.value);
  DAXFS_REQUIRE_EXPENSIVE(index_->find(name) == nullptr, "directory {}: the name is there already",
                          inode_.value);
  const std::uint32_t number = *prepared;
  Index::Block& block = index_->blocks.find(number)->second;
  DAXFS_REQUIRE(run_starts(block.occupied, granules) != 0,
                "directory {}: block {} was prepared for a shorter name", inode_.value, number);
  const auto granule =
      static_cast<unsigned>(std::countr_zero(run_starts(block.occupied, granules)));
  const PoolOffset at = granule_offset(block.pool, granule);

  DirEntryHeader header{};
  header.inode = inode.value;
  header.type = type;
  header.name_length = static_cast<std::uint8_t>(name.size());
  header.granules = static_cast<std::uint8_t>(granules);
  header.magic = DirEntryHeader::kMagic;
  header.crc = entry_crc(inode_, header, name);
  // The rest of the last granule is zero: blocks begin so, and remove() leaves them so.
  std::array<std::byte, sizeof header + pmem::kMaxName> image;
  std::memcpy(image.data(), &header, sizeof header);
  std::memcpy(image.data() + sizeof header, name.data(), name.size());
  tx.write(at, std::span(image).first(sizeof header + name.size()));

  block.starts |= 1ull << granule;
  index_->set_occupied(number, block, block.occupied | granule_mask(granule, granules));
  index_->names.insert(Index::Element{at.value / kGranuleBytes, number, hash_of(name)});
}

void Directory::replace(Transaction& tx, std::string_view name, InodeNumber inode,
                        std::uint8_t type) {
  const Index::Element* found = index_->find(name);
  if (found == nullptr) return;
  auto header = medium_.load<DirEntryHeader>(found->offset());
  header.inode = inode.value;
  header.type = type;
  header.crc = entry_crc(inode_, header, name);
  tx.write_object(found->offset(), header);
}

void Directory::remove(Transaction& tx, pmem::InodeRecord& record, std::string_view name,
                       std::vector<PoolRange>& released) {
  const auto found = index_->names.find(Index::Key{hash_of(name), name});
  if (found == index_->names.end()) return;
  const PoolOffset at = found->offset();
  const std::uint32_t number = found->block;
  const auto granule = static_cast<unsigned>(found->place() % kGranulesPerBlock);
  index_->names.erase(found);

  const unsigned granules = granules_for(name.size());
  Index::Block& block = index_->blocks.find(number)->second;
  block.starts &= ~(1ull << granule);
  index_->set_occupied(number, block, block.occupied & ~granule_mask(granule, granules));

  const bool awaited = index_->prepared == number;
  if (block.occupied == 0 && !awaited && drop_block(tx, record, number, released)) return;
  static constexpr std::array<std::byte, kMaxGranules * kGranuleBytes> kZeroes{};
  tx.write(at, std::span(kZeroes).first(granules * kGranuleBytes));
}

bool Directory::drop_block(Transaction& tx, pmem::InodeRecord& record, std::uint32_t number,
                           std::vector<PoolRange>& released) {
  const FileBlock at(number);
  const auto extent = extents_.first_from(at);
  const bool splits = extent && extent->file < at && at + BlockCount(1) < extent->end();
  // A full pool may refuse the slot; an empty block in a directory does no harm.
  if (splits && !extents_.reserve(record, 1)) return false;
  extents_.remove(tx, {at, BlockCount(1)}, 1, released);
  if (extents_.size() == 0) extents_.release_chain(record, released);
  index_->drop_block(number);

  const auto last = extents_.last();
  const std::uint64_t end = last ? last->end().value : 0;
  record.blocks = extents_.mapped().value;
  record.size = bytes(BlockCount(end)).value;
  if (number < end && index_->holes.size() < kMaxHoles) index_->holes.insert(number);
  index_->holes.erase(index_->holes.lower_bound(static_cast<std::uint32_t>(end)),
                      index_->holes.end());
  return true;
}

}  // namespace daxfs
