#include "blockmap/fsck/inspect_directory.h"

#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/fsck/bit_repair.h"

namespace daxfs::fsck {
namespace {

using pmem::DirEntryHeader;

using Image = std::array<unsigned char, sizeof(DirEntryHeader) + pmem::kMaxName>;

struct Correction {
  std::size_t byte;  // of the entry
  std::byte value;
  unsigned granules;
};

bool is_sound(InodeNumber directory, const Image& image, std::size_t size, unsigned granule) {
  DirEntryHeader header;
  std::memcpy(&header, image.data(), sizeof header);
  const std::string_view name(reinterpret_cast<const char*>(image.data()) + sizeof header,
                              size - sizeof header);
  return is_sound_entry(directory, header, name, granule);
}

// With one bit flipped, a sound entry may lie here. `room`: granules to the end of the block.
std::optional<Correction> correct_entry(const Medium& medium, InodeNumber directory,
                                        PoolBlock block, unsigned granule) {
  const PoolOffset at = granule_offset(block, granule);
  const std::size_t room = (pmem::kGranulesPerBlock - granule) * pmem::kGranuleBytes;
  Image image{};
  std::memcpy(image.data(), medium.at(at), std::min(room, image.size()));
  const auto granules = [&] {
    return static_cast<unsigned>(image[offsetof(DirEntryHeader, granules)]);
  };

  // The length of the name says how much the checksum covers, so its bits are tried one by one.
  unsigned char& length = image[offsetof(DirEntryHeader, name_length)];
  for (unsigned bit = 0; bit < 8; ++bit) {
    length ^= static_cast<unsigned char>(1u << bit);
    const std::size_t size = sizeof(DirEntryHeader) + length;
    if (size <= room && is_sound(directory, image, size, granule)) {
      return Correction{offsetof(DirEntryHeader, name_length), std::byte(length), granules()};
    }
    length ^= static_cast<unsigned char>(1u << bit);
  }
  const std::size_t size = sizeof(DirEntryHeader) + length;
  if (length == 0 || size > room) return std::nullopt;

  DirEntryHeader header;
  std::memcpy(&header, image.data(), sizeof header);
  const std::string_view name(reinterpret_cast<const char*>(image.data()) + sizeof header, length);
  const std::uint32_t difference = header.crc ^ entry_crc(directory, header, name);
  const auto bit = find_flipped_bit(difference, size, offsetof(DirEntryHeader, crc));
  if (!bit) return std::nullopt;
  image[*bit / 8] ^= static_cast<unsigned char>(1u << (*bit % 8));
  if (!is_sound(directory, image, size, granule)) return std::nullopt;
  return Correction{*bit / 8, std::byte(image[*bit / 8]), granules()};
}

bool is_free_granule(const Medium& medium, PoolBlock block, unsigned granule) {
  return is_free(medium.load<DirEntryHeader>(granule_offset(block, granule)));
}

}  // namespace

DirectoryBlockPlan inspect_directory_block(const Medium& medium, InodeNumber directory,
                                           PoolBlock block) {
  DirectoryBlockPlan plan;
  for (unsigned granule = 0; granule < pmem::kGranulesPerBlock;) {
    if (is_free_granule(medium, block, granule)) {
      ++granule;
    } else if (is_sound_entry(medium, directory, block, granule)) {
      plan.entries.push_back(granule);
      granule += medium.load<DirEntryHeader>(granule_offset(block, granule)).granules;
    } else if (const auto fix = correct_entry(medium, directory, block, granule)) {
      plan.entries.push_back(granule);
      plan.corrections.push_back(
          {granule_offset(block, granule) + ByteCount(fix->byte), fix->value});
      granule += fix->granules;
    } else {
      plan.destroyed |= 1ull << granule;
      ++granule;
    }
  }
  return plan;
}

bool holds_sound_entry(const Medium& medium, InodeNumber directory, PoolBlock block) {
  for (unsigned granule = 0; granule < pmem::kGranulesPerBlock; ++granule) {
    if (!is_free_granule(medium, block, granule) &&
        is_sound_entry(medium, directory, block, granule)) {
      return true;
    }
  }
  return false;
}

}  // namespace daxfs::fsck
