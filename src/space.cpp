#include "src/space.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/clock.h"

namespace daxfs {
namespace {

// The whole blocks within [offset, offset + length).
FileRange whole_blocks(FileOffset offset, ByteCount length) {
  const std::uint64_t first = blocks_for(ByteCount(offset.value)).value;
  const std::uint64_t end = block_of(offset + length).value;
  return {FileBlock(first), BlockCount(end > first ? end - first : 0)};
}

Status check_range(FileOffset offset, ByteCount length) {
  if (length.value == 0 || offset.value > kMaxFileBytes) return fail(EINVAL);
  if (length.value > kMaxFileBytes - offset.value) return fail(EFBIG);
  return {};
}

}  // namespace

void Space::zero_ends(Inode& inode, const Punch& punch) {
  const FileRange whole = whole_blocks(punch.offset, punch.length);
  if (whole.empty()) return filling_.zero_in_place(inode, punch.offset, punch.length);
  const FileOffset start = offset_of(whole.start);
  const FileOffset end = offset_of(whole.end());
  filling_.zero_in_place(inode, punch.offset, ByteCount(start.value - punch.offset.value));
  filling_.zero_in_place(inode, end,
                         ByteCount(punch.offset.value + punch.length.value - end.value));
}

Result<Verdict> Space::punch_once(Inode& inode, const Punch& punch, const TicketRef& ticket) {
  const WriterLock guard(inode.lock);
  if (inode.is_protected()) return fail(EPERM);
  const FileRange whole = whole_blocks(punch.offset, punch.length);
  const auto first = whole.empty() ? std::nullopt : inode.map().first_from(whole.start);
  const bool takes_blocks = first && first->file < whole.end();
  if (takes_blocks) {
    DetachRequest asked = punch.request;
    asked.range = whole;
    asked.offset = punch.offset;
    asked.length = punch.length;
    const auto verdict = detaching_.ask(inode, asked, ticket);
    if (!verdict || *verdict == Verdict::parked) return verdict;
  }
  // No detach: blocks that are punched in part stay.
  zero_ends(inode, punch);
  mount_.volume.medium().fence();
  pages_.zeroed(inode, punch.offset, punch.length);
  inode.mtime = inode.ctime = file_time_now();
  take_setid(inode, punch.caller);
  return proceed_if(takes_blocks ? detaching_.take(inode, whole, ticket) : inodes_.commit(inode));
}

void Space::punch_hole(OpenFile& file, FileOffset offset, ByteCount length, const Caller& caller,
                       const CancellationRef& cancellation, Done done) {
  if (const Status ok = health_.writable(); !ok) return done(ok);
  if (!file.writable) return done(fail(EBADF));
  if (const Status ok = check_range(offset, length); !ok) return done(ok);
  if (const Status loaded = inodes_.load_extents(*file.inode); !loaded) return done(loaded);
  if (const Status dropped = xattrs_.drop_capability(*file.inode); !dropped) return done(dropped);
  const Punch punch{.offset = offset,
                    .length = length,
                    .request = {.holder = file.holder,
                                .requester = callers_.requester(caller),
                                .reason = DetachReason::punch},
                    .caller = caller};
  const OpenFileRef kept = file.shared_from_this();
  run_at_gate(gate_, cancellation, kept,
              [this, punch, inode = &*file.inode, done = std::move(done)](const TicketRef& ticket) {
                const auto verdict = punch_once(*inode, punch, ticket);
                if (verdict && *verdict == Verdict::parked) return true;
                done(verdict ? Status() : std::unexpected(verdict.error()));
                return false;
              });
}

Status Space::allocate(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                       const Caller& caller) {
  return fill_range(file, offset, length, keep_size, false, caller);
}

Status Space::zero_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                         const Caller& caller) {
  return fill_range(file, offset, length, keep_size, true, caller);
}

Status Space::fill_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                         bool zero, const Caller& caller) {
  if (const Status ok = health_.writable(); !ok) return ok;
  if (!file.writable) return fail(EBADF);
  if (const Status ok = check_range(offset, length); !ok) return ok;
  Inode& inode = *file.inode;
  if (const Status loaded = inodes_.load_extents(inode); !loaded) return loaded;
  if (const Status dropped = xattrs_.drop_capability(inode); !dropped) return dropped;
  const WriterLock guard(inode.lock);
  if (inode.is_immutable() || (inode.is_append_only() && zero)) return fail(EPERM);
  const std::uint64_t end = keep_size ? 0 : offset.value + length.value;
  const std::int64_t mtime = inode.mtime, ctime = inode.ctime;
  // With the blocks that it brings. Behind what is zeroed: a new time says that all of it is.
  if (!zero) inode.mtime = inode.ctime = file_time_now();
  if (const Status filled =
          filling_.fill_holes(inode, covering(offset, length), Filling::Fill::unwritten, end);
      !filled) {
    inode.mtime = mtime;
    inode.ctime = ctime;
    return filled;
  }
  // Written blocks are zeroed in place, so that no pin ever stands in the way.
  if (zero) {
    filling_.zero_in_place(inode, offset, length);
    pages_.zeroed(inode, offset, length);
  }
  take_setid(inode, caller);
  // Also where all of it was there: to allocate is to change, as on ext4 and xfs.
  return filling_.grow_to(inode, end);
}

Result<FileOffset> Space::seek(OpenFile& file, FileOffset from, int whence, bool written) {
  Inode& inode = *file.inode;
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return fail(EINVAL);
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return std::unexpected(loaded.error());
  const ReaderLock guard(inode.lock);
  const std::uint64_t size = inode.record.size;
  if (from.value >= size) return fail(ENXIO);
  if (!written) return whence == SEEK_DATA ? from : FileOffset(size);
  std::uint64_t at = from.value;
  while (at < size) {
    const auto run = inode.map().run_at(
        block_of(FileOffset(at)),
        blocks_for(ByteCount(size)) - BlockCount(block_of(FileOffset(at)).value));
    const bool data = run.pool && !run.unwritten;
    if (data == (whence == SEEK_DATA)) return FileOffset(at);
    at = offset_of(run.range.end()).value;
  }
  if (whence == SEEK_DATA) return fail(ENXIO);
  return FileOffset(size);  // the end counts as a hole
}

}  // namespace daxfs
