#include "blockmap/volume/mkfs.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "blockmap/journal.h"
#include "blockmap/layout.h"
#include "blockmap/pin_record_scan.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kPoolBytesPerInode = 16 << 10;
constexpr std::uint64_t kPoolBytesPerPinByte = 4096;
constexpr std::uint64_t kSmallPoolBytes = 16ull << 20;

// A record at the beginning of a block whose rest is zero.
template <class T>
void write_block(Medium& medium, PoolBlock block, const T& record) {
  static_assert(sizeof(T) <= kBlockSize);
  std::array<std::byte, kBlockSize> image{};
  std::memcpy(image.data(), &record, sizeof record);
  medium.write(offset_of(block), image);
}

pmem::InodeRecord root_record(const MakeOptions& options) {
  pmem::InodeRecord root{};
  root.generation = 1;
  root.links = 2;
  root.mode = static_cast<std::uint16_t>(S_IFDIR | (options.root_mode & 07777));
  root.uid = options.root_uid;
  root.gid = options.root_gid;
  root.parent = kRootInode.value;
  root.atime_ns = root.mtime_ns = root.ctime_ns = root.btime_ns = options.now_ns;
  seal(root, pmem::kInodeCrcBytes);
  return root;
}

}  // namespace

pmem::Superblock plan_geometry(BlockCount total) {
  const std::uint64_t pool_bytes = bytes(total).value;
  const bool small = pool_bytes < kSmallPoolBytes;
  pmem::Superblock super{};
  super.magic = pmem::kMagic;
  super.version = pmem::kVersion;
  super.total_blocks = total.value;
  super.journal_start = 2;
  super.journal_lanes = small ? 8 : 16;
  super.lane_bytes = small ? 16 << 10 : 32 << 10;
  super.pin_region_start =
      super.journal_start +
      blocks_for(ByteCount(std::uint64_t{super.journal_lanes} * super.lane_bytes)).value;
  super.pin_region_blocks = blocks_for(ByteCount(pool_bytes / kPoolBytesPerPinByte)).value;
  super.inode_region_start = super.pin_region_start + super.pin_region_blocks;
  // Set aside, not written: chunks are initialised when they are first needed.
  const std::uint64_t inodes = pool_bytes / kPoolBytesPerInode;
  super.inode_region_chunks =
      std::max<std::uint64_t>(1, (inodes + pmem::kChunkInodes - 1) / pmem::kChunkInodes);
  super.data_start = super.inode_region_start + super.inode_region_chunks * pmem::kChunkBlocks;
  return super;
}

Outcome<void> make_filesystem(Medium& medium, const MakeOptions& options) {
  const std::uint64_t size = medium.size().value;
  if (size < pmem::kMinPoolBytes || size > pmem::kMaxPoolBytes) {
    return problem(EINVAL, fmt::format("a pool of {} bytes is too {}: it has {} MiB to {} PiB",
                                       size, size < pmem::kMinPoolBytes ? "small" : "large",
                                       pmem::kMinPoolBytes >> 20, pmem::kMaxPoolBytes >> 50));
  }
  const PoolBlock copy_b = superblock_b(medium);

  // An old pool ends here: from now on until copy B stands, there is none. Zeroing the magic alone
  // would not do: if then only the new magic arrived, the old superblock would be back.
  for (const PoolBlock copy : {kSuperblockA, copy_b}) {
    medium.zero(offset_of(copy), ByteCount(sizeof(pmem::Superblock)));
  }
  medium.fence();

  pmem::Superblock super = plan_geometry(medium.blocks());
  super.uuid = options.uuid;
  super.created_ns = options.now_ns;
  seal(super);

  pmem::PoolState state{};
  state.flags = pmem::kStateClean;
  state.inode_chunks = 1;
  seal(state);
  write_block(medium, kStateBlock, state);

  const PoolOffset inodes = offset_of(inode_region(super).start);
  medium.zero(inodes, bytes(BlockCount(pmem::kChunkBlocks)));
  medium.fence();  // orders the root record behind the zeroes, which go past the caches
  const pmem::InodeRecord root = root_record(options);
  // Slots are in order from inode 1.
  medium.store(inodes, std::as_bytes(std::span(&root, 1)));
  Journal::format(medium, journal_geometry(super));
  format_pin_region(medium, super);
  medium.fence();

  for (const PoolBlock copy : {copy_b, kSuperblockA}) {
    write_block(medium, copy, super);
    medium.fence();
  }
  if (medium.failed()) return problem(EIO, "the medium failed to make the new filesystem durable");
  return {};
}

}  // namespace daxfs
