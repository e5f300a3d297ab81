// Writing. In place, where blocks exist already: copied past the caches and fenced, with the lock
// held shared. Else with new blocks: data is durable before the metadata that shows it.
#include <algorithm>
#include <mutex>
#include <shared_mutex>

#include "base/clock.h"
#include "src/commit_batch.h"
#include "src/filesystem.h"

namespace daxfs {
namespace {

// How much of a file range lies in one mapped piece of the pool.
struct Piece {
  PoolOffset at;
  std::uint64_t length;
};

Piece piece_at(const ExtentMap::Run& run, std::uint64_t from, std::uint64_t end) {
  const std::uint64_t run_start = offset_of(run.range.start).value;
  return {offset_of(*run.pool) + ByteCount(from - run_start),
          std::min(end, offset_of(run.range.end()).value) - from};
}

// How much a write zeroes at a time of what was preallocated before it, while others wait for the
// file.
constexpr BlockCount kZeroedAtATime{(32ull << 20) / kBlockSize};

}  // namespace

Result<std::size_t> Filesystem::write(OpenFile& file, FileOffset offset,
                                      std::span<const std::byte> data, bool drop_privileges) {
  const auto written = write_bytes(file, offset, data, drop_privileges);
  if (written && !file.direct) {
    Inode& inode = *file.inode;
    given_.written(inode.number, offset, data.first(*written), inode.write_pins != 0);
  }
  return written;
}

Result<std::size_t> Filesystem::write_pages(OpenFile& file, FileOffset offset,
                                            std::span<const std::byte> data, bool drop_privileges) {
  note_page_cache(*file.inode);
  if (!given_.any()) return write_bytes(file, offset, data, drop_privileges);
  for (const auto& piece : given_.changes(file.inode->number, offset, data)) {
    const auto written = write_bytes(file, offset + ByteCount(piece.from),
                                     data.subspan(piece.from, piece.length), drop_privileges);
    if (!written) return written;
    if (*written < piece.length) return piece.from + *written;
  }
  // There may have been nothing to write.
  if (const Status ok = durable(); !ok) return std::unexpected(ok.error());
  return data.size();
}

Result<Filesystem::Appended> Filesystem::append(OpenFile& file, FileOffset believed,
                                                std::span<const std::byte> data,
                                                bool drop_privileges) {
  Inode& inode = *file.inode;
  bool moved = false;
  {
    const std::shared_lock guard(inode.lock);
    moved = believed.value >= inode.grown_from && believed.value < inode.grown_to;
  }
  const auto written = moved ? write_bytes(file, believed, data, drop_privileges, true)
                             : write(file, believed, data, drop_privileges);
  if (!written) return std::unexpected(written.error());
  return Appended{*written, moved};
}

void Filesystem::forget_pages(OpenFile& file) {
  Inode& inode = *file.inode;
  inode.cache_stale = true;
  if (KernelCache* const kernel = mount_.kernel)
    kernel->invalidate_data(inode.number, nullptr, KernelCache::Asker::other);
}

void Filesystem::note_growth(Inode& inode, std::uint64_t from) {
  inode.grown_from = inode.grown_to > inode.grown_from ? std::min(inode.grown_from, from) : from;
  inode.grown_to = inode.record.size;
}

void Filesystem::note_end(Inode& inode, std::uint64_t size) {
  inode.grown_to = std::min(inode.grown_to, size);
}

Result<std::size_t> Filesystem::write_bytes(OpenFile& file, FileOffset offset,
                                            std::span<const std::byte> data, bool drop_privileges,
                                            bool at_end) {
  if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
  if (!file.writable) return fail(EBADF);
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (data.empty()) return 0;
  if (offset.value > INT64_MAX || data.size() > INT64_MAX - offset.value) return fail(EFBIG);
  if (const Status loaded = load_extents(inode); !loaded) return std::unexpected(loaded.error());
  if (const Status dropped = drop_capability(inode); !dropped)
    return std::unexpected(dropped.error());
  if (!file.direct) note_page_cache(inode);

  std::size_t done = at_end ? 0 : write_in_place(inode, offset, data, drop_privileges);
  while (done < data.size()) {
    const auto written = write_allocating(inode, offset + ByteCount(done), data.subspan(done),
                                          drop_privileges, at_end);
    if (!written) {
      if (done > 0) break;
      return written;
    }
    done += *written;
  }
  // What was written in place has had a fence, and no commit.
  if (const Status ok = durable(); !ok) return std::unexpected(ok.error());
  return done;
}

std::size_t Filesystem::write_in_place(Inode& inode, FileOffset offset,
                                       std::span<const std::byte> data, bool drop_privileges) {
  const std::uint64_t end = offset.value + data.size();
  Medium& medium = mount_.volume.medium();
  const std::shared_lock guard(inode.lock);
  if (end > inode.record.size) return 0;
  if (drop_privileges && has_privileges(inode)) return 0;
  std::uint64_t at = offset.value;
  while (at < end) {
    const FileRange rest = covering(FileOffset(at), ByteCount(end - at));
    const auto run = inode.extents->run_at(rest.start, rest.count);
    if (!run.pool || run.unwritten) break;
    const Piece piece = piece_at(run, at, end);
    medium.write(piece.at, data.subspan(at - offset.value, piece.length));
    at += piece.length;
  }
  if (at == offset.value) return 0;
  touch(inode);
  return at - offset.value;
}

Result<std::size_t> Filesystem::write_allocating(Inode& inode, FileOffset offset,
                                                 std::span<const std::byte> data,
                                                 bool drop_privileges, bool at_end) {
  Medium& medium = mount_.volume.medium();
  const std::unique_lock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  if (at_end) {
    offset = FileOffset(inode.record.size);
    if (data.size() > INT64_MAX - offset.value) return fail(EFBIG);
  }
  ExtentMap& map = *inode.extents;

  // What is missing, and how many records the change may take; as much of it as one transaction
  // holds.
  const std::size_t most_slots = changes_per_commit(mount_.volume.journal(), 2);
  const FileRange range = covering(offset, ByteCount(data.size()));
  BlockCount missing;
  std::size_t slots = 0;
  FileBlock reach = range.start;
  while (reach < range.end() && slots + 2 < most_slots) {
    auto run = map.run_at(reach, range.end() - reach);
    if (!run.pool) {
      // New blocks can come in as many pieces as there are blocks.
      const std::size_t room = most_slots - slots - 2;
      run.range.count = std::min(run.range.count, BlockCount(room));
      missing += run.range.count;
      slots += run.range.count.value;
    } else if (run.unwritten) {
      slots += 2;
    }
    reach = run.range.end();
  }
  std::vector<PoolRange> blocks;
  if (missing.value > 0) {
    missing = std::min(missing, mount_.volume.allocator().free_blocks());
    const auto before = map.run_at(
        range.start.value > 0 ? range.start - BlockCount(1) : range.start, BlockCount(1));
    const PoolBlock goal = before.pool ? *before.pool + BlockCount(1) : PoolBlock(0);
    if (missing.value > 0) {
      // Without them it stops at the first hole.
      (void)mount_.volume.allocator().allocate(missing, goal, blocks);
    }
  }
  const auto give_back = [&](std::size_t from) {
    for (std::size_t i = from; i < blocks.size(); ++i)
      (void)mount_.volume.allocator().free(blocks[i]);
  };

  // Pair holes with new blocks; stop where they run out.
  std::vector<Extent> fresh;
  std::size_t next = 0;
  FileBlock stop = range.start;
  while (stop < reach) {
    const auto run = map.run_at(stop, reach - stop);
    if (!run.pool) {
      if (next == blocks.size()) break;
      const BlockCount count = std::min(run.range.count, blocks[next].count);
      fresh.push_back({.file = stop, .pool = blocks[next].start, .count = count});
      blocks[next] = {blocks[next].start + count, blocks[next].count - count};
      if (blocks[next].empty()) ++next;
      stop = stop + count;
    } else {
      stop = run.range.end();
    }
  }
  if (stop == range.start) return fail(ENOSPC);
  Transaction tx;
  if (!fresh.empty()) {
    const std::size_t needed = fresh.size() + map.slots_to_write({range.start, stop - range.start});
    if (const Status room = map.reserve(tx, inode.record, needed); !room) {
      for (const Extent& extent : fresh)
        (void)mount_.volume.allocator().free({extent.pool, extent.count});
      give_back(next);
      blocks.clear();
      // What comes before the first hole can be written all the same.
      stop = fresh.front().file;
      fresh.clear();
      if (stop == range.start) return std::unexpected(room.error());
    }
  }
  // What is shown as written afterwards. Preallocated blocks take no more space, so where records
  // find none it is more than what is written.
  FileRange shown{range.start, stop - range.start};
  if (fresh.empty()) shown = map.reserve_to_write(tx, inode.record, shown);
  const auto zero_unwritten = [&](FileBlock from, FileBlock to) {
    if (from == to) return;
    map.for_each({from, to - from}, [&](const Extent& extent) {
      if (extent.unwritten) medium.zero(offset_of(extent.pool), bytes(extent.count));
    });
  };
  // A long way from its beginning goes in pieces, with the file's lock let go between them.
  if (const FileRange piece{shown.start, kZeroedAtATime};
      piece.end() < range.start && map.reserve(tx, inode.record, map.slots_to_write(piece))) {
    zero_unwritten(piece.start, piece.end());
    medium.fence();
    map.mark_written(tx, piece);
    stage(tx, inode);
    if (const Status committed = commit(tx); !committed) return std::unexpected(committed.error());
    return 0;
  }

  const std::uint64_t end = std::min(offset.value + data.size(), offset_of(stop).value);
  zero_behind_end(inode, offset.value);
  zero_unwritten(shown.start, range.start);
  zero_unwritten(stop, shown.end());
  // The rest of blocks that become visible: new ones, and preallocated ones.
  const auto fill_edges = [&](const Extent& extent) {
    const std::uint64_t begin_byte = offset_of(extent.file).value;
    const std::uint64_t end_byte = offset_of(extent.end()).value;
    if (offset.value > begin_byte) {
      medium.zero(offset_of(extent.pool), ByteCount(std::min(offset.value, end_byte) - begin_byte));
    }
    if (end < end_byte) {
      const std::uint64_t from = std::max(end, begin_byte);
      medium.zero(offset_of(extent.pool) + ByteCount(from - begin_byte),
                  ByteCount(end_byte - from));
    }
  };
  const auto copy = [&](const Extent& extent) {
    const std::uint64_t begin_byte = offset_of(extent.file).value;
    const std::uint64_t from = std::max(offset.value, begin_byte);
    const std::uint64_t to = std::min(end, offset_of(extent.end()).value);
    medium.write(offset_of(extent.pool) + ByteCount(from - begin_byte),
                 data.subspan(from - offset.value, to - from));
  };
  map.for_each({range.start, stop - range.start}, [&](const Extent& extent) {
    if (extent.unwritten) fill_edges(extent);
    copy(extent);
  });
  for (const Extent& extent : fresh) {
    fill_edges(extent);
    copy(extent);
  }
  medium.fence();

  map.mark_written(tx, shown);
  for (const Extent& extent : fresh) map.insert(tx, extent);
  inode.record.blocks = map.mapped().value;
  inode.record.size = std::max(inode.record.size, end);
  if (at_end) inode.grown_to = inode.record.size;
  if (drop_privileges) drop_privileges_unasked(inode);
  inode.mtime = inode.ctime = file_time_now();
  stage(tx, inode);
  const Status committed = commit(tx);
  give_back(next);
  if (!committed) return std::unexpected(committed.error());
  return end - offset.value;
}

}  // namespace daxfs
