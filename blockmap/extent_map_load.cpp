// Reading the slots of an inode back into an ExtentMap. Nothing on the medium is trusted.
#include <algorithm>
#include <cstddef>
#include <optional>

#include "blockmap/extent_map.h"
#include "blockmap/extent_record.h"

namespace daxfs {
namespace {

// The extent blocks of an inode, oldest first; nullopt for anything that does not hold together.
std::optional<std::vector<PoolBlock>> read_chain(const Medium& medium, InodeNumber inode,
                                                 std::uint64_t head, PoolRange data_area) {
  std::vector<PoolBlock> chain;
  // Brent: a loop comes back to the mark, which moves on at each power of two.
  std::uint64_t mark = head;
  std::uint64_t next_mark = 1;
  for (std::uint64_t block = head; block != 0;) {
    if (!lies_within(data_area, block, 1)) return std::nullopt;
    const PoolBlock here(block);
    const auto content = medium.load<pmem::ExtentBlock>(offset_of(here));
    if (!is_sound_header(content, inode)) return std::nullopt;
    chain.push_back(here);
    block = content.next;
    if (block == mark) return std::nullopt;
    if (chain.size() == next_mark) {
      mark = block;
      next_mark *= 2;
    }
  }
  std::ranges::reverse(chain);
  return chain;
}

}  // namespace

struct ExtentMap::Slots {
  struct Used {
    FileBlock file;
    Node node;
  };
  std::vector<PoolBlock> chain;
  std::vector<Used> used;           // ascending by file block
  std::vector<std::uint32_t> free;  // descending
};

Result<ExtentMap::Slots> ExtentMap::read_slots(const Medium& medium, InodeNumber inode,
                                               PoolOffset slot, PoolRange data_area) {
  // Everything below is bounded by these two, and by them alone.
  if (data_area.end().value > medium.blocks().value ||
      slot.value > medium.size().value - sizeof(pmem::InodeSlot)) {
    return fail(EUCLEAN);
  }
  const auto head =
      medium.load<std::uint64_t>(slot + ByteCount(offsetof(pmem::InodeRecord, extent_block)));
  auto chain = read_chain(medium, inode, head, data_area);
  if (!chain) return fail(EUCLEAN);
  const std::uint64_t total = pmem::kInlineExtents + chain->size() * pmem::ExtentBlock::kSlots;
  if (total > kMaxSlots) return fail(EUCLEAN);

  Slots slots{.chain = *std::move(chain), .used = {}, .free = {}};
  for (auto id = static_cast<std::uint32_t>(total); id-- != 0;) {
    const auto record = medium.load<pmem::ExtentRecord>(slot_offset(slot, slots.chain, id));
    if (is_free(record)) {
      slots.free.push_back(id);
      continue;
    }
    if (!is_plausible(record, inode, data_area)) return fail(EUCLEAN);
    const Extent extent{FileBlock(record.file_block), PoolBlock(record.pool_block),
                        BlockCount(record.count), (record.flags & pmem::kExtentUnwritten) != 0};
    slots.used.push_back({extent.file, make_node(extent, id)});
  }

  std::ranges::sort(slots.used, {}, &Slots::Used::file);
  for (std::size_t i = 1; i < slots.used.size(); ++i) {
    const Slots::Used& before = slots.used[i - 1];
    if (before.file + BlockCount(before.node.count) > slots.used[i].file) return fail(EUCLEAN);
  }
  return slots;
}

Result<ExtentMap> ExtentMap::load(Medium& medium, Allocator& allocator, InodeNumber inode,
                                  PoolOffset slot, PoolRange data_area) {
  auto slots = read_slots(medium, inode, slot, data_area);
  if (!slots) return std::unexpected(slots.error());
  ExtentMap map(medium, allocator, inode, slot);
  for (const Slots::Used& used : slots->used) {
    map.extents_.emplace_hint(map.extents_.end(), used.file, used.node);
    map.mapped_ += BlockCount(used.node.count);
  }
  map.chain_ = std::move(slots->chain);
  map.free_slots_ = std::move(slots->free);
  return map;
}

}  // namespace daxfs
