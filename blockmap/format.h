// The on-media format, version 2. docs/format.md explains it with pictures; this file is the law.
//
// All integers are little-endian. Every record carries a CRC32C of its own (so that one change
// rewrites one record, not a block); the CRC is computed with its field as zero and the field is
// never zero in a valid record (see seal()). Block numbers are in units of 4 KiB from the pool's
// first byte; 0 means "none", because block 0 holds the superblock.
//
//   block 0                superblock, copy A (copy B: the pool's last block)
//   block 1                pool state: what changes and is not an inode
//   journal_start ..       journal lanes, lane_bytes each
//   pin_region_start ..    pin records (32 slots of 128 bytes a block), initialised on first use
//   inode_region_start ..  inode chunks (64 blocks = 1024 inodes each), initialised on first use
//   data_start ..          extents of files and directories, extent blocks, xattr runs, more inode
//                          chunks, inode chunk index blocks, more pin records
//
// What is in use between data_start and the last block is exactly what inodes (and the inode chunk
// index) refer to, the blocks that hold pin records, and what pins of living processes refer to;
// everything else is free. No free-space structure is persistent.
#pragma once

#include <sys/stat.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "blockmap/medium/pool_size.h"

namespace daxfs::pmem {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

inline constexpr std::array<char, 8> kMagic = {'D', 'A', 'X', 'F', 'S', 'P', 'M', '1'};
inline constexpr std::uint32_t kVersion = 2;  // 1 had no pin region and was never released

inline constexpr std::uint64_t kInodeBytes = 256;
inline constexpr std::uint64_t kChunkBlocks = 64;
inline constexpr std::uint64_t kChunkInodes = kChunkBlocks * kBlockSize / kInodeBytes;
inline constexpr std::uint64_t kHugeBlocks = 512;  // 2 MiB: what a huge-page mapping needs

// incompatible_features. A bit is set when a pool first has what it stands for: until then older
// versions may mount it.
inline constexpr std::uint64_t kFeatureAcls = 1;  // lists that the modes are to be in step with
inline constexpr std::uint64_t kFeatureInodeFlags = 2;  // immutable or append-only inodes
inline constexpr std::uint64_t kKnownFeatures = kFeatureAcls | kFeatureInodeFlags;

struct Superblock {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t crc;                    // over the whole struct
  std::uint64_t compatible_features;    // unknown bits: ignore
  std::uint64_t incompatible_features;  // unknown bits: refuse to mount
  std::array<std::uint8_t, 16> uuid;
  std::uint64_t total_blocks;  // of the pool; the last one holds copy B
  std::uint64_t journal_start;
  std::uint32_t journal_lanes;
  std::uint32_t lane_bytes;
  std::uint64_t inode_region_start;
  std::uint64_t inode_region_chunks;
  std::uint64_t data_start;
  std::int64_t created_ns;  // since the epoch
  std::uint64_t pin_region_start;
  std::uint64_t pin_region_blocks;
  std::array<std::uint64_t, 17> reserved;
};
static_assert(sizeof(Superblock) == 256);

inline constexpr std::uint32_t kStateClean = 1;  // unmounted in good order
// There may be records of doorbells (kPinDoorbell).
inline constexpr std::uint64_t kPoolDoorbells = 1;
inline constexpr std::uint64_t kKnownIncompatible = kPoolDoorbells;

struct PoolState {
  std::uint32_t crc;
  std::uint32_t flags;          // kState*
  std::uint64_t inode_chunks;   // initialised chunks; inode numbers are 1 .. 1024 * this
  std::uint64_t inode_index;    // first ChunkIndexBlock, for chunks past the region
  std::uint64_t mounts;         // how often it was mounted
  std::uint64_t incompatible;   // kPool*: unknown bits: refuse to mount. Comes and goes
  std::uint64_t free_snapshot;  // reserved: free space as of a clean unmount
  std::array<std::uint64_t, 10> reserved;
};
static_assert(sizeof(PoolState) == 128);

// The inode chunks that lie in the data area, in order of their inode numbers; chained.
struct ChunkIndexBlock {
  static constexpr std::uint32_t kMagic = 0x58444e49;  // "INDX"
  std::uint32_t crc;                                   // over the header and `count` entries
  std::uint32_t magic;
  std::uint64_t next;
  std::uint32_t count;
  std::uint32_t reserved;
  std::uint64_t reserved2;
  std::array<std::uint64_t, 508> chunks;  // first block of each chunk
};
static_assert(sizeof(ChunkIndexBlock) == kBlockSize);

// A run of blocks of a file. All-zero: a free slot.
struct ExtentRecord {
  std::uint64_t file_block;
  std::uint64_t pool_block;
  std::uint32_t count;      // in blocks, never 0
  std::uint32_t flags;      // kExtent*
  std::uint32_t inode_low;  // the low half of the owner's inode number
  std::uint32_t crc;
};
static_assert(sizeof(ExtentRecord) == 32);
inline constexpr std::uint32_t kExtentUnwritten = 1;  // allocated, reads as zeroes

inline constexpr std::size_t kInlineExtents = 4;

// InodeRecord::flags, of files and directories (chattr(1)).
inline constexpr std::uint16_t kInodeImmutable = 1;
inline constexpr std::uint16_t kInodeAppendOnly = 2;
inline constexpr std::uint16_t kInodeNoAtime = 4;
inline constexpr std::uint16_t kInodeNoDump = 8;
inline constexpr std::uint16_t kInodeSync = 16;
inline constexpr std::uint16_t kInodeDirSync = 32;  // of directories only
inline constexpr std::uint16_t kInodeFlags = 63;
// What a new inode has from its directory.
inline constexpr std::uint16_t kInheritedInodeFlags =
    kInodeNoAtime | kInodeNoDump | kInodeSync | kInodeDirSync;
// Those that an inode of this mode can have.
constexpr std::uint16_t allowed_inode_flags(unsigned mode) {
  if (S_ISDIR(mode)) return kInodeFlags;
  if (S_ISREG(mode)) return kInodeFlags & ~kInodeDirSync;
  return kInodeNoAtime | kInodeNoDump;
}

// mode == 0: a free slot (its generation stays). An inode with links == 0 and mode != 0 is an
// orphan: unlinked but open; the next mount frees it.
struct InodeRecord {
  std::uint32_t crc;  // over [4, 96)
  std::uint32_t generation;
  std::uint32_t links;
  std::uint16_t mode;   // as st_mode
  std::uint16_t flags;  // kInode*
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint64_t size;
  std::uint64_t rdev;
  std::uint64_t blocks;        // mapped data blocks (without extent and xattr blocks)
  std::uint64_t extent_block;  // first ExtentBlock of a chain, once the inline slots are full
  std::uint64_t xattr_block;   // first block of the xattr run
  std::uint64_t xattr_bytes;   // its length (see XattrHeader)
  std::uint64_t parent;        // of a directory
  std::uint64_t detach_begin;  // a detach in progress (see below): the next mount finishes it
  std::uint64_t detach_end;
  // Outside the checksum, each replaced by one atomic 8-byte store: any value is valid.
  std::int64_t atime_ns;
  std::int64_t mtime_ns;
  std::int64_t ctime_ns;
  std::int64_t btime_ns;
};
static_assert(sizeof(InodeRecord) == 128);
static_assert(offsetof(InodeRecord, atime_ns) == 96);
inline constexpr std::size_t kInodeCrcBytes = 96;
// A detach of more extents than one transaction can hold first records its range of file blocks,
// [detach_begin, detach_end); both 0: none. To the end of the file: kDetachToEnd.
inline constexpr std::uint64_t kDetachToEnd = ~0ull;

struct InodeSlot {
  InodeRecord record;
  std::array<ExtentRecord, kInlineExtents> extents;
};
static_assert(sizeof(InodeSlot) == kInodeBytes);

// More extent slots of one inode, in no order; new blocks go to the head of the chain.
struct ExtentBlock {
  static constexpr std::uint32_t kMagic = 0x4e545845;  // "EXTN"
  static constexpr std::size_t kSlots = 127;
  std::uint32_t crc;  // over the first 32 bytes
  std::uint32_t magic;
  std::uint64_t inode;
  std::uint64_t next;
  std::uint64_t reserved;
  std::array<ExtentRecord, kSlots> slots;
};
static_assert(sizeof(ExtentBlock) == kBlockSize);

// A directory is a file of blocks of 64 granules (64 bytes each). An entry takes 1 to 5 consecutive
// granules of one block and never moves, so that its place is its readdir cookie. All-zero first 16
// bytes: a free granule; removing an entry zeroes every granule that it took.
inline constexpr std::size_t kGranuleBytes = 64;
inline constexpr std::size_t kGranulesPerBlock = kBlockSize / kGranuleBytes;
inline constexpr std::size_t kMaxName = 255;

struct DirEntryHeader {
  std::uint64_t inode;
  std::uint32_t
      crc;  // over this header (crc 0), the name, and seeded with the directory's inode number
  std::uint8_t type;  // DT_*
  std::uint8_t name_length;
  std::uint8_t granules;
  std::uint8_t magic;  // kMagic
  static constexpr std::uint8_t kMagic = 0xd5;
};
static_assert(sizeof(DirEntryHeader) == 16);

// All extended attributes of an inode, in one run of blocks that is replaced as a whole.
// After the header: {u16 name_length, u16 0, u32 value_length, name, value} each, unpadded.
struct XattrHeader {
  static constexpr std::uint32_t kMagic = 0x52544158;  // "XATR"
  std::uint32_t crc;                                   // over header and payload
  std::uint32_t magic;
  std::uint64_t inode;
  std::uint64_t bytes;  // header and payload
  std::uint64_t count;
};
static_assert(sizeof(XattrHeader) == 32);

// Pin records: what long-term pins keep, and for whom. They lie in blocks of 32 slots; slot 0 of a
// block is its header. Each checksum is seeded with the record's position (its byte in the pool /
// 128), so that a copy elsewhere is no record. The first word of a record decides alone: zero means
// that the slot is free, whatever else it holds. Records do not change through the journal, headers
// do.
inline constexpr std::uint64_t kPinSlotBytes = 128;
inline constexpr std::uint64_t kPinSlotsPerBlock = kBlockSize / kPinSlotBytes;

// Slot 0 of the region's first block (in the others it stays zero).
struct PinRegionHeader {
  static constexpr std::uint32_t kMagic = 0x524e4950;  // "PINR"
  std::uint32_t crc;
  std::uint32_t magic;
  std::uint64_t ready_blocks;  // of the region, that are initialised; at least 1
  std::uint64_t spill;         // first block of the chain in the data area
  std::array<std::uint64_t, 13> reserved;
};
static_assert(sizeof(PinRegionHeader) == kPinSlotBytes);

// Slot 0 of a block of pin records in the data area.
struct PinSpillHeader {
  static constexpr std::uint32_t kMagic = 0x534e4950;  // "PINS"
  std::uint32_t crc;
  std::uint32_t magic;
  std::uint64_t next;
  std::array<std::uint64_t, 14> reserved;
};
static_assert(sizeof(PinSpillHeader) == kPinSlotBytes);

struct PinnedRun {
  std::uint64_t block;
  std::uint64_t count;  // never 0
};

// A pin, with its first run of blocks. Further runs are in continuations, linked by position. All
// records of a pin carry its sequence number. What lacks one of them was never acknowledged and
// counts as absent; continuations without their head are free slots.
struct PinHead {
  static constexpr std::uint16_t kMagic = 0x4850;  // "PH"
  std::uint32_t crc;
  std::uint16_t magic;
  std::uint16_t flags;  // kPin*
  std::uint64_t sequence;
  std::uint64_t next;  // position of the first continuation; 0: none
  std::uint64_t pin_id;
  std::uint32_t process;  // 0: none that the daemon could name
  std::uint32_t uid;
  std::uint64_t start_time;  // of the process, in clock ticks since boot; 0: unknown
  std::array<std::uint8_t, 16> boot;
  std::uint64_t inode;
  std::uint32_t generation;
  std::uint32_t runs;    // in all records of the pin
  std::uint64_t offset;  // in bytes
  std::uint64_t length;
  std::int64_t since_ns;        // since the epoch
  PinnedRun first;              // zero if there are no runs
  std::uint32_t pid_namespace;  // of the daemon: `process` counts there; 0: the reader's own
  std::uint32_t reserved;
};
static_assert(sizeof(PinHead) == kPinSlotBytes);
inline constexpr std::uint16_t kPinWrite = 1;
// A doorbell (client/doorbell.h), which no inode owns: one run of one block; `offset` is the number
// of the attachment, and `length` is 0.
inline constexpr std::uint16_t kPinDoorbell = 2;
inline constexpr std::uint16_t kKnownPinFlags = kPinWrite | kPinDoorbell;
// What is wrong with the flags of a head, or nullptr.
constexpr const char* wrong_flags(const PinHead& head) {
  if ((head.flags & ~kKnownPinFlags) != 0) return "has unknown flags";
  if ((head.flags & kPinDoorbell) == 0) return nullptr;
  const bool sound =
      head.runs == 1 && head.first.count == 1 && head.length == 0 && (head.flags & kPinWrite) == 0;
  return sound ? nullptr : "is no doorbell though it says so";
}

struct PinContinuation {
  static constexpr std::uint16_t kMagic = 0x4350;  // "PC"
  static constexpr std::size_t kRuns = 6;
  std::uint32_t crc;
  std::uint16_t magic;
  std::uint16_t count;  // of runs; kRuns in all but the last
  std::uint64_t sequence;
  std::uint64_t next;
  std::array<PinnedRun, kRuns> runs;
  std::uint64_t reserved;
};
static_assert(sizeof(PinContinuation) == kPinSlotBytes);

}  // namespace daxfs::pmem
