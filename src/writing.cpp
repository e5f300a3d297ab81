#include "src/writing.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "base/clock.h"

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

WriteRequest part_of(const WriteRequest& request, std::size_t from, std::size_t length) {
  WriteRequest part = request;
  part.offset = request.offset + ByteCount(from);
  part.data = request.data.subspan(from, length);
  return part;
}

// What a write needs: new blocks for holes, as far as `reach`.
struct Need {
  BlockCount missing;
  FileBlock reach;
};

// As much of it as one transaction holds, which has that many slots.
Need look_at(const ExtentMap& map, FileRange range, std::size_t most_slots) {
  Need need{.missing = {}, .reach = range.start};
  std::size_t slots = 0;
  while (need.reach < range.end() && slots + 2 < most_slots) {
    auto run = map.run_at(need.reach, range.end() - need.reach);
    if (!run.pool) {
      // New blocks can come in as many pieces as there are blocks.
      const std::size_t room = most_slots - slots - 2;
      run.range.count = std::min(run.range.count, BlockCount(room));
      need.missing += run.range.count;
      slots += run.range.count.value;
    } else if (run.unwritten) {
      slots += 2;
    }
    need.reach = run.range.end();
  }
  return need;
}

}  // namespace

void Writing::write(OpenFile& file, const WriteRequest& request, Completion<std::size_t> done) {
  Inode& inode = *file.inode;
  // The kernel writes back its own pages, so nothing is to be dropped.
  if (request.by_page_cache) {
    const OpenFileRef kept = file.shared_from_this();
    const auto written = write_pages(file, request);
    done(written);
    if (written == fail(ENOSPC)) pages_.did_not_fit(inode);
    // What its flags protect is to be read as it is.
    if (written == fail(EPERM)) pages_.drop(inode);
    return pages_.came_back(inode);
  }
  WriteRequest asked = request;
  if (request.at_end) {
    const ReaderLock guard(inode.lock);
    asked.moved = inode.may_be_former_end(request.offset) ||
                  (inode.is_append_only() && request.offset.value != inode.record.size);
  }
  const bool moved = asked.moved;
  auto written = write_bytes(file, asked);
  // The kernel takes a short count of O_DIRECT for EIO where it has split the write itself.
  if (written && *written < request.data.size() && file.keeps_writes && request.past_cache) {
    const std::size_t rest = request.data.size() - *written;
    const auto more = write_bytes(file, part_of(asked, *written, rest));
    written = more ? Result<std::size_t>(*written + *more) : more;
  }
  if (!written) return done(written);
  if (file.keeps_writes && request.past_cache) {
    pages_.passed(inode, request.offset, ByteCount(*written));
  } else if (!moved && !file.direct) {
    pages_.written(inode, request.offset, request.data.first(*written));
  }
  pages_.after_write(file, [this, kept = file.shared_from_this(), count = *written, moved,
                            done = std::move(done)] {
    done(count);
    // Not before: the pages are locked while they wait for the answer.
    if (moved) pages_.drop(*kept->inode);
  });
}

Result<std::size_t> Writing::write_pages(OpenFile& file, const WriteRequest& request) {
  Inode& inode = *file.inode;
  KernelPages::note_cached(inode);
  if (!pages_.remembers_any()) {
    const Status written = write_page_bytes(file, request);
    if (!written) return std::unexpected(written.error());
  } else {
    for (const auto& piece : pages_.changes(inode, request.offset, request.data)) {
      const Status written = write_page_bytes(file, part_of(request, piece.from, piece.length));
      if (!written) return std::unexpected(written.error());
    }
  }
  // It has them without having read them, if programs have written whole ones.
  if (pages_.keeps_writes()) pages_.written(inode, request.offset, request.data);
  // There may have been nothing to write.
  if (const Status ok = health_.durable(); !ok) return std::unexpected(ok.error());
  return request.data.size();
}

Status Writing::write_page_bytes(OpenFile& file, WriteRequest request) {
  while (!request.data.empty()) {
    const auto written = write_bytes(file, request);
    if (!written) return std::unexpected(written.error());
    request = part_of(request, *written, request.data.size() - *written);
  }
  return {};
}

Result<std::size_t> Writing::write_bytes(OpenFile& file, const WriteRequest& request) {
  const std::size_t length = request.data.size();
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  if (!file.writable) return fail(EBADF);
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (length == 0) return 0;
  if (request.offset.value > kMaxFileBytes || length > kMaxFileBytes - request.offset.value)
    return fail(EFBIG);
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return std::unexpected(loaded.error());
  // What the page cache gives back was written before; it may have got one since.
  if (const Status dropped = request.by_page_cache ? Status() : xattrs_.drop_capability(inode);
      !dropped)
    return std::unexpected(dropped.error());
  if (!file.direct) KernelPages::note_cached(inode);

  std::size_t done = request.moved ? 0 : write_in_place(inode, request);
  while (done < length) {
    const auto written = write_allocating(inode, part_of(request, done, length - done));
    if (!written) {
      if (done > 0) break;
      return written;
    }
    done += *written;
  }
  // What was written in place has had a fence, and no commit.
  if (const Status ok = health_.durable(); !ok) return std::unexpected(ok.error());
  return done;
}

bool Writing::appends(const Inode& inode, const WriteRequest& request) const {
  // Kept by the kernel for those who had it open before, whom it let append.
  if (request.by_page_cache) return pages_.keeps_writes() && inode.cached_writers != 0;
  return request.at_end && (request.moved || request.offset.value >= inode.record.size);
}

std::size_t Writing::write_in_place(Inode& inode, const WriteRequest& request) {
  const std::uint64_t start = request.offset.value;
  const std::uint64_t end = start + request.data.size();
  Medium& medium = mount_.volume.medium();
  const ReaderLock guard(inode.lock);
  if (end > inode.record.size || inode.is_protected()) return 0;
  if (request.drop_privileges && (inode.record.mode & (S_ISUID | S_ISGID)) != 0) return 0;
  std::uint64_t at = start;
  while (at < end) {
    const FileRange rest = covering(FileOffset(at), ByteCount(end - at));
    const auto run = inode.map().run_at(rest.start, rest.count);
    if (!run.pool || run.unwritten) break;
    const Piece piece = piece_at(run, at, end);
    medium.write(piece.at, request.data.subspan(at - start, piece.length));
    at += piece.length;
  }
  if (at == start) return 0;
  if (keeps_times(request)) {
    medium.fence();
  } else {
    inodes_.touch(inode);
  }
  return at - start;
}

// The beginning of a write, as far as one transaction can show it.
struct Writing::Part {
  Inode& inode;
  const std::uint64_t start;  // byte offset
  const std::span<const std::byte> data;
  FileRange blocks;             // what of it is written
  std::vector<Extent> fresh{};  // new blocks for its holes
  FileRange shown{};            // what is shown as written afterwards: `blocks`, or more
  Transaction tx{};

  ExtentMap& map() const {
    inode.lock.assert_held();
    return inode.map_to_change();
  }
  std::uint64_t end() const { return std::min(start + data.size(), offset_of(blocks.end()).value); }
};

Status Writing::find_blocks(Part& part, NewBlocks& blocks) {
  part.inode.lock.assert_held();
  ExtentMap& map = part.map();
  Allocator& allocator = mount_.volume.allocator();
  const FileBlock start = part.blocks.start;
  const Need need = look_at(map, part.blocks, changes_per_commit(mount_.volume.journal(), 2));
  if (const BlockCount wanted = std::min(need.missing, allocator.free_blocks()); wanted.value > 0) {
    const auto before = map.run_at(start.value > 0 ? start - BlockCount(1) : start, BlockCount(1));
    const PoolBlock goal = before.pool ? *before.pool + BlockCount(1) : PoolBlock(0);
    // Without them it stops at the first hole.
    (void)blocks.allocate(wanted, goal);
  }
  FileBlock stop;
  part.fresh = blocks.fill(map, {start, need.reach - start}, stop);
  if (stop == start) return fail(ENOSPC);
  part.blocks = {start, stop - start};
  if (!part.fresh.empty()) {
    const std::size_t needed = part.fresh.size() + map.slots_to_write(part.blocks);
    if (const Status room = map.reserve(part.inode.record, needed); !room) {
      // What comes before the first hole can be written all the same.
      blocks.give_back(part.fresh);
      part.blocks = {start, part.fresh.front().file - start};
      part.fresh.clear();
      if (part.blocks.empty()) return room;
    }
  }
  // Preallocated blocks take no more space, so where records find none it is more than what is
  // written.
  part.shown = part.blocks;
  if (part.fresh.empty()) {
    part.shown = map.reserve_to_write(part.inode.record, part.blocks);
  }
  return {};
}

// A long way from its beginning goes in pieces, with the file's lock let go between them.
Result<bool> Writing::zero_far_before(Part& part) {
  part.inode.lock.assert_held();
  ExtentMap& map = part.map();
  const FileRange piece{part.shown.start, kZeroedAtATime};
  if (piece.end() >= part.blocks.start ||
      !map.reserve(part.inode.record, map.slots_to_write(piece))) {
    return false;
  }
  zero_unwritten(part, piece.start, piece.end());
  mount_.volume.medium().fence();
  map.mark_written(part.tx, piece);
  inodes_.stage(part.tx, part.inode);
  if (const Status committed = health_.commit(part.tx); !committed)
    return std::unexpected(committed.error());
  return true;
}

void Writing::zero_unwritten(const Part& part, FileBlock from, FileBlock to) {
  if (from == to) return;
  part.map().for_each({from, to - from}, [&](const Extent& extent) {
    if (extent.unwritten) mount_.volume.medium().zero(offset_of(extent.pool), bytes(extent.count));
  });
}

// The bytes, and zeroes around them in blocks that become visible: new ones, and preallocated ones.
void Writing::store(Part& part) {
  part.inode.lock.assert_held();
  Medium& medium = mount_.volume.medium();
  const std::uint64_t start = part.start;
  const std::uint64_t end = part.end();
  filling_.zero_behind_end(part.inode, start);
  zero_unwritten(part, part.shown.start, part.blocks.start);
  zero_unwritten(part, part.blocks.end(), part.shown.end());
  const auto fill_edges = [&](const Extent& extent) {
    const std::uint64_t first = offset_of(extent.file).value;
    const std::uint64_t last = offset_of(extent.end()).value;
    if (start > first) {
      medium.zero(offset_of(extent.pool), ByteCount(std::min(start, last) - first));
    }
    if (end < last) {
      const std::uint64_t from = std::max(end, first);
      medium.zero(offset_of(extent.pool) + ByteCount(from - first), ByteCount(last - from));
    }
  };
  const auto copy = [&](const Extent& extent) {
    const std::uint64_t first = offset_of(extent.file).value;
    const std::uint64_t from = std::max(start, first);
    const std::uint64_t to = std::min(end, offset_of(extent.end()).value);
    medium.write(offset_of(extent.pool) + ByteCount(from - first),
                 part.data.subspan(from - start, to - from));
  };
  part.map().for_each(part.blocks, [&](const Extent& extent) {
    if (extent.unwritten) fill_edges(extent);
    copy(extent);
  });
  for (const Extent& extent : part.fresh) {
    fill_edges(extent);
    copy(extent);
  }
  medium.fence();
}

Status Writing::show(Part& part, const WriteRequest& request) {
  Inode& inode = part.inode;
  inode.lock.assert_held();
  part.map().mark_written(part.tx, part.shown);
  for (const Extent& extent : part.fresh) part.map().insert(part.tx, extent);
  inode.record.blocks = part.map().mapped().value;
  inode.record.size = std::max(inode.record.size, part.end());
  if (request.moved) inode.note_append();
  if (request.drop_privileges) {
    inodes_.take_setid(
        inode, Callers::lost_setid(inode.record.mode, inode.record.gid, request.caller, true));
  }
  if (!keeps_times(request)) inode.mtime = inode.ctime = file_time_now();
  inodes_.stage(part.tx, inode);
  return health_.commit(part.tx);
}

Result<std::size_t> Writing::write_allocating(Inode& inode, const WriteRequest& request) {
  const WriterLock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  if (inode.is_immutable() || (inode.is_append_only() && !appends(inode, request)))
    return fail(EPERM);
  const FileOffset offset = request.moved ? FileOffset(inode.record.size) : request.offset;
  if (request.data.size() > kMaxFileBytes - offset.value) return fail(EFBIG);
  Part part{.inode = inode,
            .start = offset.value,
            .data = request.data,
            .blocks = covering(offset, ByteCount(request.data.size()))};
  NewBlocks blocks(mount_.volume.allocator());
  if (const Status found = find_blocks(part, blocks); !found) return std::unexpected(found.error());
  const auto zeroed = zero_far_before(part);
  if (!zeroed) return std::unexpected(zeroed.error());
  if (*zeroed) return 0;
  store(part);
  if (const Status shown = show(part, request); !shown) return std::unexpected(shown.error());
  return part.end() - part.start;
}

}  // namespace daxfs
