#include "tests/crash/objects.h"

#include <fmt/format.h>

namespace daxfs::testing {
namespace {

std::uint64_t lane_of(const pmem::Superblock& super, std::uint64_t offset) {
  return (offset - super.journal_start * kBlockSize) / super.lane_bytes;
}

std::uint64_t inode_of(const pmem::Superblock& super, std::uint64_t offset) {
  return (offset - super.inode_region_start * kBlockSize) / pmem::kInodeBytes + 1;
}

}  // namespace

std::uint64_t object_at(const pmem::Superblock& super, std::uint64_t offset) {
  constexpr std::uint64_t kJournal = 1ull << 62;
  constexpr std::uint64_t kInode = 1ull << 61;
  if (in_journal(super, offset)) return kJournal + lane_of(super, offset);
  if (in_inodes(super, offset)) return kInode + inode_of(super, offset);
  return offset / kBlockSize;
}

std::string name_of_place(const pmem::Superblock& super, const Medium& medium,
                          std::uint64_t offset) {
  const std::uint64_t block = offset / kBlockSize;
  const std::uint64_t within = offset % kBlockSize;
  if (block == 0 || block == super.total_blocks - 1) return "superblock";
  if (in_journal(super, offset)) {
    const std::uint64_t lane = lane_of(super, offset);
    const std::uint64_t start = super.journal_start * kBlockSize + lane * super.lane_bytes;
    return fmt::format("journal lane {}, byte {}", lane, offset - start);
  }
  if (block == 1) return "pool state";
  if (in_inodes(super, offset)) {
    const std::uint64_t byte = offset % pmem::kInodeBytes;
    const char* const what = byte < 64    ? "attributes"
                             : byte < 128 ? "attributes and times"
                                          : "extent slots";
    return fmt::format("inode {}, {}", inode_of(super, offset), what);
  }
  const auto magic = medium.load<std::uint32_t>(PoolOffset(block * kBlockSize + 4));
  const char* const what = magic == pmem::ExtentBlock::kMagic   ? "extent block"
                           : magic == pmem::XattrHeader::kMagic ? "attribute run"
                                                                : "block";
  return fmt::format("{} {}, byte {}", what, block, within);
}

}  // namespace daxfs::testing
