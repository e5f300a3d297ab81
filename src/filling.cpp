#include "src/filling.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace daxfs {

std::size_t changes_per_commit(const Journal& journal, std::size_t slots_each) {
  constexpr std::size_t kForInode = 1024;
  return (journal.capacity() - kForInode) / (slots_each * ExtentMap::kStagedBytesPerSlot);
}

NewBlocks::~NewBlocks() {
  for (const PoolRange& run : runs_) (void)allocator_.free(run);
}

Status NewBlocks::allocate(BlockCount count, PoolBlock goal) {
  return allocator_.allocate(count, goal, runs_);
}

std::vector<Extent> NewBlocks::fill(const ExtentMap& map, FileRange range, FileBlock& stop) {
  std::vector<Extent> filled;
  auto next = runs_.begin();
  stop = range.start;
  while (stop < range.end()) {
    const auto run = map.run_at(stop, range.end() - stop);
    if (run.pool) {
      stop = run.range.end();
      continue;
    }
    if (next == runs_.end()) break;
    const BlockCount count = std::min(run.range.count, next->count);
    filled.push_back({.file = stop, .pool = next->start, .count = count});
    *next = {next->start + count, next->count - count};
    if (next->empty()) ++next;
    stop = stop + count;
  }
  runs_.erase(runs_.begin(), next);
  return filled;
}

void NewBlocks::give_back(std::span<const Extent> extents) {
  for (const Extent& extent : extents) (void)allocator_.free({extent.pool, extent.count});
}

Status Filling::fill_holes(Inode& inode, FileRange range, Fill fill, std::uint64_t size,
                           std::size_t spare_slots) {
  ExtentMap& map = inode.map_to_change();
  BlockCount missing;
  for (FileBlock at = range.start; at < range.end();) {
    const auto run = map.run_at(at, range.end() - at);
    if (!run.pool) missing += run.range.count;
    at = run.range.end();
  }
  if (missing.value == 0) return {};
  Allocator& allocator = mount_.volume.allocator();
  if (allocator.free_blocks() < missing) return fail(ENOSPC);

  const auto last = map.last();
  NewBlocks blocks(allocator);
  if (const Status got = blocks.allocate(missing, last ? last->pool + last->count : PoolBlock(0));
      !got) {
    return got;
  }
  FileBlock stop;
  std::vector<Extent> pieces = blocks.fill(map, range, stop);
  // An insert takes at most one slot each; all of them now, so that nothing can fail once the first
  // piece is committed.
  Transaction tx;
  if (const Status room = map.reserve(inode.record, pieces.size() + spare_slots); !room) {
    blocks.give_back(pieces);
    return room;
  }
  for (Extent& piece : pieces) {
    piece.unwritten = fill == Fill::unwritten;
    if (fill == Fill::zeroed) {
      mount_.volume.medium().zero(offset_of(piece.pool), bytes(piece.count));
    }
  }
  if (fill == Fill::zeroed) mount_.volume.medium().fence();
  return show_pieces(inode, tx, pieces, size);
}

Status Filling::show_pieces(Inode& inode, Transaction& tx, std::span<const Extent> pieces,
                            std::uint64_t size) {
  const std::size_t per_commit = changes_per_commit(mount_.volume.journal(), 2);
  Status committed;  // the last one counts: none succeeds behind one that failed
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    inode.map_to_change().insert(tx, pieces[i]);
    const bool last = i + 1 == pieces.size();
    if ((i + 1) % per_commit != 0 && !last) continue;

    inode.record.blocks = inode.map().mapped().value;
    inode.ctime = file_time_now();
    if (last && size > inode.record.size) {
      zero_behind_end(inode, size);
      mount_.volume.medium().fence();
      inode.record.size = size;
      inode.mtime.store(inode.ctime);
    }
    inodes_.stage(tx, inode);
    committed = health_.commit(tx);
    tx.clear();
  }
  return committed;
}

Status Filling::populate(Inode& inode, FileRange range, std::uint64_t size) {
  ExtentMap& map = inode.map_to_change();
  // Filling holes never makes this more.
  const std::size_t slots = map.slots_to_write(range);
  if (const Status filled = fill_holes(inode, range, Fill::zeroed, size, slots); !filled)
    return filled;
  // Preallocated blocks: zeroed first, shown as written afterwards. In a full pool these may be
  // more than asked for; then all of it happens here, with the lock held.
  Transaction tx;
  const FileRange shown = map.reserve_to_write(inode.record, range);
  std::vector<FileRange> unwritten;
  map.for_each(shown, [&](const Extent& extent) {
    if (!extent.unwritten) return;
    mount_.volume.medium().zero(offset_of(extent.pool), bytes(extent.count));
    unwritten.push_back({extent.file, extent.count});
  });
  if (unwritten.empty()) return {};
  mount_.volume.medium().fence();
  // A few at a time, as a transaction holds.
  const std::size_t per_commit = changes_per_commit(mount_.volume.journal(), 4);
  Status committed;  // as above
  for (std::size_t i = 0; i < unwritten.size(); ++i) {
    map.mark_written(tx, unwritten[i]);
    if ((i + 1) % per_commit != 0 && i + 1 < unwritten.size()) continue;
    inodes_.stage(tx, inode);
    committed = health_.commit(tx);
    tx.clear();
  }
  return committed;
}

void Filling::zero_in_place(Inode& inode, FileOffset offset, ByteCount length) {
  const std::uint64_t end = offset.value + length.value;
  inode.map().for_each(covering(offset, length), [&](const Extent& extent) {
    if (extent.unwritten) return;
    const std::uint64_t from = std::max(offset.value, offset_of(extent.file).value);
    const std::uint64_t to = std::min(end, offset_of(extent.end()).value);
    const PoolOffset at = offset_of(extent.pool) + ByteCount(from - offset_of(extent.file).value);
    mount_.volume.medium().zero(at, ByteCount(to - from));
  });
}

void Filling::zero_behind_end(Inode& inode, std::uint64_t size) {
  const std::uint64_t old = inode.record.size;
  if (size <= old) return;
  // Not the rest of the last block alone: what was preallocated behind the end can have been
  // pinned, and written by its holder.
  if (!clears_behind_end() || inode.write_pins == 0) {
    return zero_in_place(inode, FileOffset(old), ByteCount(size - old));
  }
  std::vector<FileRange> open{covering(FileOffset(old), ByteCount(size - old))};
  inode.map().for_each(open.front(), [&](const Extent& run) {
    gate_.counts({run.pool, run.count}, [&](PoolRange pinned, PinCounts) {
      const FileBlock first = run.file + (pinned.start - run.pool);
      const FileRange last =
          std::exchange(open.back(), {open.back().start, first - open.back().start});
      open.push_back({first + pinned.count, last.end() - (first + pinned.count)});
    });
  });
  for (const FileRange& part : open) {
    const std::uint64_t from = std::max(old, offset_of(part.start).value);
    const std::uint64_t to = std::min(size, offset_of(part.end()).value);
    if (from < to) zero_in_place(inode, FileOffset(from), ByteCount(to - from));
  }
}

void Filling::clear_behind_end(Inode& inode, std::uint64_t end) {
  const std::uint64_t size = inode.record.size;
  if (clears_behind_end() && end > size)
    zero_in_place(inode, FileOffset(size), ByteCount(end - size));
}

Status Filling::grow_to(Inode& inode, std::uint64_t size) {
  zero_behind_end(inode, size);
  mount_.volume.medium().fence();
  inode.record.size = std::max(inode.record.size, size);
  inode.mtime = inode.ctime = file_time_now();
  return inodes_.commit(inode);
}

}  // namespace daxfs
