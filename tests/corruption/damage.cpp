#include "tests/corruption/damage.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/layout.h"
#include "blockmap/pin_record_scan.h"

namespace daxfs::corruption {

void Damage::inflict() {
  using Kind = void (Damage::*)();
  static constexpr Kind kKinds[] = {&Damage::flip_bits, &Damage::flip_bits,   &Damage::zero_block,
                                    &Damage::garbage,   &Damage::swap_blocks, &Damage::copy_block,
                                    &Damage::zero_line, &Damage::forge,       &Damage::forge,
                                    &Damage::forge,     &Damage::forge};
  for (std::uint64_t n = 1 + below(3); n > 0; --n) (this->*kKinds[below(std::size(kKinds))])();
}

bool Damage::touches(const Bytes& bytes) const {
  return std::ranges::any_of(touched_, [&](const Bytes& t) { return t.overlaps(bytes); });
}
bool Damage::touches(const std::vector<Bytes>& bytes) const {
  return std::ranges::any_of(bytes, [&](const Bytes& b) { return touches(b); });
}

PoolBlock Damage::some_block() {
  const std::uint64_t blocks = medium_.blocks().value;
  switch (below(7)) {
    case 0:
      return PoolBlock(below(blocks));
    case 3:
      return block_of(some_pin_slot());
    case 1:
      return PoolBlock(below(image_.super.inode_region_start));
    case 2:
      return PoolBlock(image_.super.inode_region_start + below(image_.inodes.size()) / 16);
    default:
      return image_.used_blocks[below(image_.used_blocks.size())];
  }
}

PoolOffset Damage::some_place() {
  switch (below(6)) {
    case 0:
      return PoolOffset(below(medium_.size().value));
    case 4:
      return offset_of(some_pin_slot()) + ByteCount(below(pmem::kPinSlotBytes));
    case 1:
      return some_inode().slot + ByteCount(below(pmem::kInodeBytes));
    case 2: {
      const Known& victim = some_inode();
      if (!victim.chain.empty()) {
        return offset_of(victim.chain[below(victim.chain.size())]) + ByteCount(below(kBlockSize));
      }
      return offset_of(kStateBlock) + ByteCount(below(sizeof(pmem::PoolState)));
    }
    case 3:
      return offset_of(below(2) == 0 ? kSuperblockA : superblock_b(medium_)) +
             ByteCount(below(sizeof(pmem::Superblock)));
    default:
      return offset_of(image_.used_blocks[below(image_.used_blocks.size())]) +
             ByteCount(below(kBlockSize));
  }
}

Known& Damage::some_inode() {
  return std::next(image_.inodes.begin(), static_cast<std::ptrdiff_t>(below(image_.inodes.size())))
      ->second;
}

std::uint64_t Damage::some_number() {
  switch (below(8)) {
    case 0:
      return 0;
    case 1:
      return ~0ull;
    case 2:
      return below(medium_.blocks().value);
    case 3:
      return image_.used_blocks[below(image_.used_blocks.size())].value;
    case 4:
      return std::next(image_.inodes.begin(),
                       static_cast<std::ptrdiff_t>(below(image_.inodes.size())))
          ->first;
    case 5:
      return below(10);
    case 6:
      return 1ull << below(64);
    default:
      return any_word();
  }
}

void Damage::write(PoolOffset at, std::span<const std::byte> data, std::string what) {
  medium_.write(at, data);
  touched_.push_back({at.value, at.value + data.size()});
  text_ += fmt::format("{} at {:#x} (block {}); ", what, at.value, at.value / kBlockSize);
}

void Damage::flip_bits() {
  for (std::uint64_t n = 1 + below(4); n > 0; --n) {
    const PoolOffset at = some_place();
    const auto byte = medium_.load<std::byte>(at) ^ std::byte(1u << below(8));
    write(at, std::span(&byte, 1), "flipped bit");
  }
}

void Damage::zero_block() {
  const std::vector<std::byte> zeroes(kBlockSize);
  write(offset_of(some_block()), zeroes, "zeroed block");
}

void Damage::zero_line() {
  const std::vector<std::byte> zeroes(64);
  write(PoolOffset(some_place().value / 64 * 64), zeroes, "zeroed line");
}

void Damage::garbage() {
  std::vector<std::byte> bytes(8ull << below(10));
  for (std::byte& b : bytes) b = static_cast<std::byte>(below(256));
  const std::uint64_t at =
      std::min(some_place().value / 8 * 8, medium_.size().value - bytes.size());
  write(PoolOffset(at), bytes, "garbage");
}

void Damage::swap_blocks() {
  const PoolBlock a = some_block();
  const PoolBlock b = some_block();
  const auto contents = [&](PoolBlock block) {
    return std::vector<std::byte>(medium_.at(block), medium_.at(block) + kBlockSize);
  };
  const auto of_a = contents(a);
  const auto of_b = contents(b);
  write(offset_of(a), of_b, "swapped block");
  write(offset_of(b), of_a, "with block");
}

// Block written to the wrong place.
void Damage::copy_block() {
  const PoolBlock from = some_block();
  const std::vector<std::byte> contents(medium_.at(from), medium_.at(from) + kBlockSize);
  write(offset_of(some_block()), contents, fmt::format("copy of block {}", from.value));
}

void Damage::change_field(std::byte* record, std::size_t bytes) {
  const std::uint64_t value = some_number();
  const std::size_t width = std::size_t{1} << below(4);
  std::memcpy(record + below(bytes / width) * width, &value, width);
}

void Damage::forge() {
  const auto it =
      std::next(image_.inodes.begin(), static_cast<std::ptrdiff_t>(below(image_.inodes.size())));
  Known& victim = it->second;
  switch (below(15)) {
    case 12:
    case 13:
    case 14:
      return forge_pin();
    case 0:
      return forge_index();
    case 1:
      return forge_state();
    case 2:
      return forge_superblock();
    case 3:
    case 4:
      return forge_inode(victim);
    case 5:
      return forge_extent_block(victim);
    case 6:
      return forge_xattrs(victim);
    case 7:
    case 8:
      return forge_entry(it->first, victim);
    default:
      return forge_extent(victim);
  }
}

void Damage::forge_inode(Known& victim) {
  auto record = medium_.load<pmem::InodeRecord>(victim.slot);
  change_field(reinterpret_cast<std::byte*>(&record), pmem::kInodeCrcBytes);
  seal(record, pmem::kInodeCrcBytes);
  replace(victim.slot, record, sizeof record, "forged inode");
}

void Damage::forge_extent(Known& victim) {
  PoolOffset at = victim.slot + ByteCount(offsetof(pmem::InodeSlot, extents) +
                                          below(pmem::kInlineExtents) * sizeof(pmem::ExtentRecord));
  if (!victim.chain.empty() && below(2) == 0) {
    at = offset_of(victim.chain[below(victim.chain.size())]) +
         ByteCount(offsetof(pmem::ExtentBlock, slots) +
                   below(pmem::ExtentBlock::kSlots) * sizeof(pmem::ExtentRecord));
  }
  auto record = medium_.load<pmem::ExtentRecord>(at);
  if (record.count == 0) {
    record.count = 1 + static_cast<std::uint32_t>(below(20));
    record.pool_block = image_.used_blocks[below(image_.used_blocks.size())].value;
    record.file_block = below(100);
    const auto number =
        std::ranges::find_if(image_.inodes, [&](const auto& i) { return &i.second == &victim; });
    record.inode_low = static_cast<std::uint32_t>(number->first);
  } else {
    change_field(reinterpret_cast<std::byte*>(&record), sizeof record);
  }
  seal(record);
  replace(at, record, sizeof record, "forged extent");
}

void Damage::forge_extent_block(Known& victim) {
  if (victim.chain.empty()) return forge_extent(victim);
  const PoolOffset at = offset_of(victim.chain[below(victim.chain.size())]);
  auto block = medium_.load<pmem::ExtentBlock>(at);
  constexpr std::size_t kHeader = offsetof(pmem::ExtentBlock, slots);
  if (below(3) == 0) {
    block.next = victim.chain[below(victim.chain.size())].value;
  } else {
    change_field(reinterpret_cast<std::byte*>(&block), kHeader);
  }
  seal(block, kHeader);
  replace(at, block, kHeader, "forged extent block");
}

void Damage::forge_entry(std::uint64_t directory, Known& victim) {
  if (!S_ISDIR(victim.record.mode) || victim.bytes.size() < 2) return forge_inode(victim);
  const Bytes& run = victim.bytes[1];
  const PoolBlock block(run.begin / kBlockSize + below((run.end - run.begin) / kBlockSize));
  const auto first = static_cast<unsigned>(below(pmem::kGranulesPerBlock));
  for (unsigned i = 0; i < pmem::kGranulesPerBlock; ++i) {
    const unsigned granule = (first + i) % pmem::kGranulesPerBlock;
    const PoolOffset at = granule_offset(block, granule);
    if (!is_sound_entry(medium_, InodeNumber(directory), block, granule)) continue;
    auto header = medium_.load<pmem::DirEntryHeader>(at);
    std::string name(name_at(medium_, at));
    switch (below(5)) {
      case 0:
        name[below(name.size())] = static_cast<char>(below(256));
        break;
      case 1:
        header.inode = 1 + below(image_.inodes.size() + 3);
        break;
      case 2:
        header.type = static_cast<std::uint8_t>(below(256));
        break;
      case 3:
        name = "file1";
        header.name_length = 5;
        header.granules = 1;
        break;
      default:
        change_field(reinterpret_cast<std::byte*>(&header), sizeof header);
    }
    header.crc = entry_crc(InodeNumber(directory), header, name);
    std::vector<std::byte> image(sizeof header + name.size());
    std::memcpy(image.data(), &header, sizeof header);
    std::memcpy(image.data() + sizeof header, name.data(), name.size());
    write(at, image, "forged entry");
    hostile_ = true;
    return;
  }
}

void Damage::forge_xattrs(Known& fallback) {
  std::vector<Known*> with_some;
  for (auto& [number, known] : image_.inodes) {
    if (known.record.xattr_block != 0) with_some.push_back(&known);
  }
  if (with_some.empty()) return forge_inode(fallback);
  const Known& victim = *with_some[below(with_some.size())];
  const PoolOffset at = offset_of(PoolBlock(victim.record.xattr_block));
  std::vector<std::byte> image(victim.record.xattr_bytes);
  std::memcpy(image.data(), medium_.at(at), image.size());
  const std::string_view text(reinterpret_cast<const char*>(image.data()), image.size());
  const std::size_t list = text.find("system.posix_acl_");
  if (list != text.npos && below(3) != 0) {
    // Its name, its length, an entry.
    const std::size_t from = list - sizeof(std::uint64_t);
    image[from + below(std::min<std::size_t>(80, image.size() - from))] = std::byte(below(256));
  } else {
    change_field(image.data(), std::min<std::size_t>(image.size() / 8 * 8, 64));
  }
  std::memset(image.data(), 0, 4);
  const std::uint32_t crc = sealed_crc(image);
  std::memcpy(image.data(), &crc, 4);
  write(at, image, "forged attributes");
  hostile_ = true;
}

void Damage::forge_index() {
  if (image_.index_blocks.empty()) return forge_state();
  const PoolOffset at = offset_of(image_.index_blocks.front());
  auto index = medium_.load<pmem::ChunkIndexBlock>(at);
  change_field(reinterpret_cast<std::byte*>(&index), 40);
  if (index.count > index.chunks.size()) index.count = 2;
  const std::size_t covered = 32 + index.count * 8;
  seal(index, covered);
  replace(at, index, covered, "forged chunk index");
}

void Damage::forge_state() {
  const PoolOffset at = offset_of(kStateBlock);
  auto state = medium_.load<pmem::PoolState>(at);
  change_field(reinterpret_cast<std::byte*>(&state), 48);
  seal(state);
  replace(at, state, sizeof state, "forged pool state");
}

void Damage::forge_superblock() {
  const PoolOffset at = offset_of(below(2) == 0 ? kSuperblockA : superblock_b(medium_));
  auto super = medium_.load<pmem::Superblock>(at);
  change_field(reinterpret_cast<std::byte*>(&super), 104);
  seal(super);
  replace(at, super, sizeof super, "forged superblock");
}

void Damage::forge_pin() {
  const PinSlot slot = some_pin_slot();
  auto words = medium_.load<std::array<std::uint64_t, pmem::kPinSlotBytes / 8>>(offset_of(slot));
  if (below(4) == 0) {
    // Leads to another record.
    const std::size_t link = index_of(slot) == 0 ? 1 + below(2) : 2;
    const PinSlot other = some_pin_slot();
    words[link] = index_of(slot) == 0 ? block_of(other).value : other.position;
  } else {
    change_field(reinterpret_cast<std::byte*>(words.data()), sizeof words);
  }
  words[0] &= ~std::uint64_t{0xffff'ffff};  // the checksum
  const std::uint32_t crc =
      sealed_crc(std::as_bytes(std::span(words)), static_cast<std::uint32_t>(slot.position));
  std::memcpy(words.data(), &crc, sizeof crc);
  replace(offset_of(slot), words, sizeof words, "forged pin record");
}

void Damage::forge_journal() {
  std::vector<std::byte> lane(16);
  const auto append = [&](const void* from, std::size_t length) {
    const auto* bytes = static_cast<const std::byte*>(from);
    lane.insert(lane.end(), bytes, bytes + length);
  };
  for (std::uint64_t n = 1 + below(3); n > 0; --n) {
    const std::uint64_t words = 1 + below(4);
    const std::uint64_t at = below(4) == 0 ? some_number() : some_place().value / 8 * 8;
    const std::uint64_t length = below(16) == 0 ? some_number() & 0xffff'ffff : words * 8;
    append(&at, sizeof at);
    append(&length, sizeof length);
    for (std::uint64_t i = 0; i < words; ++i) {
      const std::uint64_t word = some_number();
      append(&word, sizeof word);
    }
  }
  const auto bytes = static_cast<std::uint32_t>(lane.size() - 16);
  std::memcpy(lane.data() + 4, &bytes, sizeof bytes);
  const std::uint32_t crc =
      sealed_crc(std::span(lane).subspan(16), crc32c(std::span(lane).first(16)));
  std::memcpy(lane.data(), &crc, sizeof crc);
  const std::uint64_t number = below(image_.super.journal_lanes);
  write(offset_of(PoolBlock(image_.super.journal_start)) +
            ByteCount(number * image_.super.lane_bytes),
        lane, "forged journal lane");
  hostile_ = true;
}

}  // namespace daxfs::corruption
