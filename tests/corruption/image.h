// A populated pool in memory, and what is known about it: which bytes belong to which inode, and
// what each inode holds. That tells what a damage may cost and what it must not.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/units.h"
#include "blockmap/format.h"
#include "blockmap/pin_records.h"
#include "src/filesystem.h"
#include "tests/crash/reversible_medium.h"

namespace daxfs::corruption {

struct Bytes {
  std::uint64_t begin;
  std::uint64_t end;
  bool overlaps(const Bytes& other) const { return begin < other.end && other.begin < end; }
};

struct Known {
  pmem::InodeRecord record{};
  std::string content;  // of a file or the target of a link; not of a directory
  std::map<std::string, std::string> xattrs;
  std::map<std::string, std::uint64_t> entries;  // of a directory
  // What must be undamaged for this inode to be.
  PoolOffset slot;
  std::vector<PoolBlock> chain;
  std::vector<Bytes> bytes;
};

// A long-term pin of a living process.
struct KnownPin {
  PinSlot slot;
  std::vector<PoolRange> blocks;
  bool limbo = false;          // no file has the blocks: nobody may write to them
  std::vector<PinSlot> slots;  // all that it takes
  std::vector<Bytes> bytes;    // the same
};

struct Image {
  std::string name;
  std::unique_ptr<testing::ReversibleMedium> medium;
  pmem::Superblock super{};
  std::map<std::uint64_t, Known> inodes;
  std::vector<KnownPin> pins;
  std::vector<PinSlot> pin_slots;  // all that are in use, also headers and those of the dead
  std::vector<PoolBlock> index_blocks;
  std::vector<PoolBlock> used_blocks;  // of the data area
  std::uint64_t region_inodes = 0;     // inodes that lie in the inode region
};

// Files of every shape, unmounted in good order. All images have pins of this process and of dead
// ones, more than the region holds, some of blocks that no file has any more.
Image make_small_image();
// More inodes than the inode region holds, so that there is a chunk index.
Image make_wide_image();
// Not unmounted: a long truncation is left to finish, and a pin that was never acknowledged.
Image make_interrupted_image();

// What an inode holds now. Throws if it cannot be read.
Known read_inode(Filesystem& fs, InodeNumber inode);

}  // namespace daxfs::corruption
