#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <optional>

#include "base/crc32c.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/volume/mkfs.h"
#include "blockmap/volume/volume.h"

namespace daxfs::fsck {
namespace {

using pmem::Superblock;

bool is_good(const Superblock& super, const Medium& medium) {
  return super.magic == pmem::kMagic && is_sealed(super) && super.version == pmem::kVersion &&
         (super.incompatible_features & ~pmem::kKnownFeatures) == 0 &&
         geometry_damage(super) == nullptr && super.total_blocks <= medium.blocks().value;
}

std::optional<Superblock> read_copy(const Medium& medium, PoolBlock block) {
  auto copy = medium.load<Superblock>(offset_of(block));
  if (is_good(copy, medium)) return copy;
  if (correct_bit(copy) && is_good(copy, medium)) return copy;
  return std::nullopt;
}

// Whether a root directory lies where this superblock says.
bool leads_to_root(const Superblock& super, const Medium& medium) {
  const auto root = medium.load<pmem::InodeRecord>(offset_of(PoolBlock(super.inode_region_start)));
  return is_sealed(root, pmem::kInodeCrcBytes) && S_ISDIR(root.mode);
}

bool has_usual_geometry(const Superblock& super, const Medium& medium) {
  const Superblock usual = plan_geometry(BlockCount(super.total_blocks));
  return super.total_blocks == medium.blocks().value &&
         super.journal_start == usual.journal_start && super.journal_lanes == usual.journal_lanes &&
         super.lane_bytes == usual.lane_bytes && super.pin_region_start == usual.pin_region_start &&
         super.pin_region_blocks == usual.pin_region_blocks &&
         super.inode_region_start == usual.inode_region_start &&
         super.inode_region_chunks == usual.inode_region_chunks &&
         super.data_start == usual.data_start;
}

// Of two good copies that differ: the one that leads to the root directory, else the one that mkfs
// would have written.
bool is_likelier(const Superblock& one, const Superblock& other, const Medium& medium) {
  const bool one_leads = leads_to_root(one, medium);
  if (one_leads != leads_to_root(other, medium)) return one_leads;
  return has_usual_geometry(one, medium) && !has_usual_geometry(other, medium);
}

std::optional<Superblock> choose(const Medium& medium) {
  const auto a = read_copy(medium, kSuperblockA);
  auto b = read_copy(medium, superblock_b(medium));
  if (b && b->total_blocks != medium.blocks().value) b.reset();
  // Copy A knows where copy B is, also in a file that has grown since.
  if (!b && a) b = read_copy(medium, PoolBlock(a->total_blocks - 1));
  if (a && b && differ_in_features_only(*a, *b)) {
    Superblock both = *a;
    both.incompatible_features |= b->incompatible_features;
    seal(both);
    return both;
  }
  if (!a || (b && is_likelier(*b, *a, medium))) return b;
  return a;
}

// Both copies are lost: what mkfs makes of a pool of this size, if the rest of the pool agrees.
std::optional<Superblock> deduce(const Medium& medium) {
  if (medium.size().value < pmem::kMinPoolBytes || medium.size().value > pmem::kMaxPoolBytes) {
    return std::nullopt;
  }
  for (const PoolBlock block : {kSuperblockA, superblock_b(medium)}) {
    const auto copy = medium.load<Superblock>(offset_of(block));
    // The size must be known: a pool that was cut short is not one of its new size.
    const bool sized = block != kSuperblockA || copy.total_blocks == medium.blocks().value;
    if (copy.magic != pmem::kMagic || !sized) continue;
    Superblock super = plan_geometry(medium.blocks());
    super.uuid = copy.uuid;
    super.created_ns = copy.created_ns;
    // Which of them it had is lost, too.
    super.incompatible_features = pmem::kKnownFeatures;
    seal(super);
    if (is_good(super, medium) && leads_to_root(super, medium)) return super;
  }
  return std::nullopt;
}

bool is_on_medium(const Superblock& super, const Medium& medium, PoolBlock block) {
  return std::memcmp(medium.at(block), &super, sizeof super) == 0;
}

void write_copy(Medium& medium, PoolBlock block, const Superblock& super) {
  medium.store(offset_of(block), std::as_bytes(std::span(&super, 1)));
  medium.fence();
}

}  // namespace

void restore_superblocks(Context& context) {
  const PoolBlock copy_b(context.super.total_blocks - 1);
  const struct {
    PoolBlock block;
    const char* name;
  } copies[] = {{kSuperblockA, "copy A"}, {copy_b, "copy B"}};
  for (const auto& [block, name] : copies) {
    if (is_on_medium(context.super, context.medium, block)) continue;
    if (differ_in_features_only(context.super, context.medium.load<Superblock>(offset_of(block)))) {
      // A crash came between the two copies, as with what the journal holds.
      if (context.accept(Code::superblock, Severity::harmless, fmt::format("superblock {}", name),
                         "lacks a feature that the other copy has; added")) {
        write_copy(context.medium, block, context.super);
      }
      continue;
    }
    if (context.accept(Code::superblock, Severity::repairable, fmt::format("superblock {}", name),
                       "differs from the other copy or is destroyed; written anew")) {
      write_copy(context.medium, block, context.super);
    }
  }
}

Outcome<void> check_superblocks(Context& context, const std::string& name) {
  Medium& medium = context.medium;
  if (medium.blocks().value < 2) {
    return problem(EINVAL, fmt::format("{}: too small for a daxfs pool", name));
  }
  // Before anything is changed; also where one bit of it is wrong.
  auto state = medium.load<pmem::PoolState>(offset_of(kStateBlock));
  if (!is_sealed(state)) correct_bit(state);
  if (auto known = check_features(state); !known)
    return problem(known.error().code, fmt::format("{}: {}", name, known.error().text));
  if (const auto super = choose(medium)) {
    context.super = *super;
    restore_superblocks(context);
    return {};
  }
  auto refused = Volume::read_superblock(medium, name);
  const auto deduced = refused || refused.error().code == EUCLEAN ? deduce(medium) : std::nullopt;
  if (!deduced) {
    if (refused) {
      return problem(EUCLEAN,
                     fmt::format("{}: the superblock makes no sense; restore the pool from "
                                 "a backup",
                                 name));
    }
    std::string text = refused.error().text;
    if (const auto hint = text.find("; run fsck.daxfs"); hint != text.npos) {
      text =
          text.substr(0, hint) +
          "; it cannot be deduced from the rest of the pool either: restore the pool from a backup";
    }
    return problem(refused.error().code, text);
  }
  context.super = *deduced;
  if (context.accept(
          Code::superblock, Severity::loss, "superblock",
          "both copies are destroyed; written anew as mkfs.daxfs makes it for this size, "
          "since the root directory lies where that says (the UUID may be wrong)")) {
    write_copy(medium, PoolBlock(deduced->total_blocks - 1), *deduced);
    write_copy(medium, kSuperblockA, *deduced);
  }
  return {};
}

}  // namespace daxfs::fsck
