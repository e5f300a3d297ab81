// Reading the superblock: the only part of the pool that every later bounds check rests on.
#include <fmt/format.h>

#include <array>
#include <optional>

#include "base/crc32c.h"
#include "blockmap/layout.h"
#include "blockmap/volume/volume.h"

namespace daxfs {
namespace {

using pmem::Superblock;

constexpr std::uint32_t kMaxLanes = 4096;
constexpr std::uint64_t kFixedBlocks = 2;  // copy A and the pool state
constexpr std::uint64_t kCacheLine = 64;

}  // namespace

const char* geometry_damage(const Superblock& super) {
  const std::uint64_t total = super.total_blocks;
  if (total < pmem::kMinPoolBytes >> kBlockShift || total > pmem::kMaxPoolBytes >> kBlockShift) {
    return "impossible size";
  }
  // Each number is bounded before it is used, so that no sum or product can wrap.
  if (super.journal_start < kFixedBlocks || super.journal_start >= total ||
      super.journal_lanes == 0 || super.journal_lanes > kMaxLanes ||
      super.lane_bytes % kCacheLine != 0) {
    return "impossible journal";
  }
  if (super.lane_bytes < kMinLaneBytes) return "journal lanes that are too small";
  const std::uint64_t journal_blocks =
      blocks_for(ByteCount(std::uint64_t{super.journal_lanes} * super.lane_bytes)).value;
  if (super.pin_region_start >= total || super.pin_region_blocks == 0 ||
      super.pin_region_blocks > total ||
      super.journal_start + journal_blocks > super.pin_region_start) {
    return "impossible pin region";
  }
  if (super.inode_region_start >= total ||
      super.pin_region_start + super.pin_region_blocks > super.inode_region_start ||
      super.inode_region_chunks == 0 || super.inode_region_chunks > total / pmem::kChunkBlocks) {
    return "impossible inode region";
  }
  const std::uint64_t region_blocks = super.inode_region_chunks * pmem::kChunkBlocks;
  if (super.data_start >= total - 1 ||
      super.inode_region_start + region_blocks > super.data_start) {
    return "impossible data area";
  }
  return nullptr;
}

Outcome<Superblock> Volume::read_superblock(const Medium& medium, const std::string& name) {
  const std::uint64_t blocks = medium.blocks().value;
  if (blocks == 0) {
    return problem(
        EINVAL, fmt::format("{}: not a daxfs pool (it is empty); make one with mkfs.daxfs", name));
  }
  const std::array copies = {medium.load<Superblock>(offset_of(PoolBlock(0))),
                             medium.load<Superblock>(offset_of(PoolBlock(blocks - 1)))};
  std::optional<Superblock> good;
  bool ours = false;
  std::uint32_t newer = 0;  // the version that a copy with a bad checksum claims
  for (const Superblock& copy : copies) {
    if (copy.magic != pmem::kMagic) continue;
    ours = true;
    if (is_sealed(copy)) {
      if (!good) good = copy;
    } else if (copy.version > pmem::kVersion) {
      newer = copy.version;
    }
  }
  if (!ours) {
    return problem(EINVAL, fmt::format("{}: not a daxfs pool; make one with mkfs.daxfs", name));
  }
  // A later format may checksum other bytes; then both copies agree in their version.
  if (!good && newer != 0 && copies[0].version == copies[1].version) good = copies[0];
  if (!good) {
    return problem(EUCLEAN,
                   fmt::format("{}: the superblock is damaged, and so is its copy (checksum "
                               "does not match); run fsck.daxfs {}",
                               name, name));
  }
  const Superblock& super = *good;
  if (super.version > pmem::kVersion) {
    return problem(EINVAL, fmt::format("{}: made by a newer version (format {}, this program knows "
                                       "{}); use a newer daxfs",
                                       name, super.version, pmem::kVersion));
  }
  if (super.version < pmem::kVersion && super.version != 0) {
    return problem(EINVAL,
                   fmt::format("{}: made by an older version (format {}, this program knows "
                               "{}); copy its files with the daxfs that made it, then make "
                               "it anew with mkfs.daxfs --force",
                               name, super.version, pmem::kVersion));
  }
  if (const auto unknown = super.incompatible_features & ~pmem::kKnownFeatures) {
    return problem(EINVAL, fmt::format("{}: incompatible feature bits {:#x}; use a newer daxfs",
                                       name, unknown));
  }
  const char* damage = super.version == 0 ? "impossible version" : geometry_damage(super);
  if (damage != nullptr) {
    return problem(EUCLEAN, fmt::format("{}: the superblock makes no sense ({}); run fsck.daxfs {}",
                                        name, damage, name));
  }
  if (super.total_blocks > blocks) {
    return problem(EUCLEAN, fmt::format("{0}: pool is truncated: superblock says {1} bytes, file "
                                        "has {2}; give it its size back "
                                        "(truncate -s {1} {0}), then run fsck.daxfs",
                                        name, bytes(BlockCount(super.total_blocks)).value,
                                        medium.size().value));
  }
  return super;
}

bool differ_in_features_only(const Superblock& a, const Superblock& b) {
  Superblock as_a = b;
  as_a.incompatible_features = a.incompatible_features;
  seal(as_a);
  return is_sealed(a) && is_sealed(b) && std::memcmp(&a, &as_a, sizeof a) == 0;
}

Status Volume::use_feature(std::uint64_t bit) {
  if ((features_.load(std::memory_order_acquire) & bit) != 0) return {};
  const MutexLock guard(features_mutex_);
  return write_features(features_.load(std::memory_order_relaxed) | bit);
}

Status Volume::settle_features() {
  const auto a = medium_.load<Superblock>(offset_of(PoolBlock(0)));
  const auto b = medium_.load<Superblock>(offset_of(PoolBlock(super_.total_blocks - 1)));
  const std::uint64_t features = a.incompatible_features | b.incompatible_features;
  if (a.incompatible_features == b.incompatible_features || (features & ~pmem::kKnownFeatures) != 0)
    return {};
  if (!differ_in_features_only(a, b)) return {};
  const MutexLock guard(features_mutex_);
  return write_features(features);
}

Status Volume::write_features(std::uint64_t features) {
  Superblock changed = super_;
  changed.incompatible_features = features;
  seal(changed);
  // One after the other: a mount needs a whole one before it can replay the journal. A comes last,
  // since it is the one that counts.
  for (const PoolBlock copy : {PoolBlock(super_.total_blocks - 1), PoolBlock(0)}) {
    Transaction tx;
    tx.write_object(offset_of(copy), changed);
    if (const Status committed = journal_->commit(tx); !committed) return committed;
  }
  features_.store(features, std::memory_order_release);
  return {};
}

}  // namespace daxfs
