#include "blockmap/volume/inode_walk.h"

#include <sys/stat.h>

#include <array>
#include <cstring>
#include <limits>

#include "base/crc32c.h"
#include "base/require.h"
#include "blockmap/dir_entry.h"
#include "blockmap/extent_map.h"
#include "blockmap/extent_record.h"
#include "blockmap/xattr.h"

namespace daxfs {
namespace {

constexpr std::array<std::byte, sizeof(pmem::InodeSlot)> kZeroes{};
constexpr std::uint64_t kMaxSize = std::numeric_limits<std::int64_t>::max();

}  // namespace

bool is_file_type(std::uint16_t mode) { return is_entry_type(entry_type(mode)); }

bool is_empty_slot(const pmem::InodeSlot& slot) {
  constexpr std::size_t kFrom = offsetof(pmem::InodeRecord, links);
  const auto* bytes = reinterpret_cast<const std::byte*>(&slot);
  return std::memcmp(bytes + kFrom, kZeroes.data(), pmem::kInodeCrcBytes - kFrom) == 0 &&
         std::memcmp(&slot.extents, kZeroes.data(), sizeof slot.extents) == 0;
}

pmem::InodeSlot load_slot(const Medium& medium, PoolOffset place) {
  pmem::InodeSlot slot;
  std::memcpy(static_cast<void*>(&slot), medium.at(place), pmem::kInodeCrcBytes);
  const auto* times =
      reinterpret_cast<const std::int64_t*>(medium.at(place + ByteCount(pmem::kInodeCrcBytes)));
  for (std::int64_t* time : {&slot.record.atime_ns, &slot.record.mtime_ns, &slot.record.ctime_ns,
                             &slot.record.btime_ns}) {
    *time = __atomic_load_n(times++, __ATOMIC_RELAXED);
  }
  std::memcpy(&slot.extents, medium.at(place + ByteCount(offsetof(pmem::InodeSlot, extents))),
              sizeof slot.extents);
  return slot;
}

const char* InodeWalk::damage(const pmem::InodeSlot& slot) const {
  const pmem::InodeRecord& record = slot.record;
  if (record.mode == 0) return is_empty_slot(slot) ? nullptr : "the slot is free but not empty";
  if (!is_sealed(record, pmem::kInodeCrcBytes)) return "checksum does not match";
  if (!is_file_type(record.mode)) return "has no valid file type";
  if (record.size > kMaxSize) return "has an impossible size";
  if (record.detach_begin > record.detach_end) return "has an impossible detach in progress";
  if ((record.xattr_block == 0) != (record.xattr_bytes == 0)) {
    return "has an impossible extended attribute run";
  }
  if (record.xattr_block != 0) {
    const PoolRange run = xattr_run(record);
    if (record.xattr_bytes > kMaxXattrBytes ||
        !lies_within(data_area_, run.start.value, run.count.value)) {
      return "has an impossible extended attribute run";
    }
  }
  return nullptr;
}

bool InodeWalk::for_each_run(InodeNumber inode, PoolOffset place, const pmem::InodeSlot& slot,
                             absl::FunctionRef<void(PoolRange)> visit) const {
  DAXFS_REQUIRE_EXPENSIVE(damage(slot) == nullptr, "inode {}: its record is damaged", inode.value);
  if (slot.record.xattr_block != 0) visit(xattr_run(slot.record));
  // Nearly all inodes have no chain; building a map for each would dominate the mount.
  if (slot.record.extent_block == 0) return visit_inline(inode, slot, visit);

  const auto map = ExtentMap::load(medium_, allocator_, inode, place, data_area_);
  if (!map) return false;
  map->for_each(kWholeFile, [&](const Extent& extent) { visit({extent.pool, extent.count}); });
  for (const PoolBlock block : map->chain()) visit({block, BlockCount(1)});
  return true;
}

bool InodeWalk::visit_inline(InodeNumber inode, const pmem::InodeSlot& slot,
                             absl::FunctionRef<void(PoolRange)> visit) const {
  for (std::size_t i = 0; i < slot.extents.size(); ++i) {
    const pmem::ExtentRecord& record = slot.extents[i];
    if (is_free(record)) continue;
    if (!is_plausible(record, inode, data_area_)) return false;
    for (std::size_t j = 0; j < i; ++j) {
      const pmem::ExtentRecord& other = slot.extents[j];
      if (record.file_block < other.file_block + other.count &&
          other.file_block < record.file_block + record.count) {
        return false;
      }
    }
    visit({PoolBlock(record.pool_block), BlockCount(record.count)});
  }
  return true;
}

}  // namespace daxfs
