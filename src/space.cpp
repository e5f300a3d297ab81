// Where a file has blocks and where it has none: truncate, fallocate, punch, seek. Everything that
// takes blocks away goes through detach_at_gate().
#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/clock.h"
#include "blockmap/volume/detach.h"
#include "src/commit_batch.h"
#include "src/filesystem.h"

namespace daxfs {
namespace {

// Tells the kernel's cache while a truncate waits. Thread-safe: who parked it may still be on the
// way to begin() when another has finished it.
class TruncateWait {
 public:
  TruncateWait(KernelCache* kernel, std::shared_ptr<InodeRef> inode)
      : kernel_(kernel), inode_(std::move(inode)) {}

  void begin() {
    const std::lock_guard guard(mutex_);
    if (state_ != State::before || kernel_ == nullptr) return;
    state_ = State::waits;
    (*inode_)->truncates += 1;
    kernel_->truncate_waits((*inode_)->number);
  }
  void end() {
    const std::lock_guard guard(mutex_);
    if (std::exchange(state_, State::over) != State::waits) return;
    kernel_->truncate_ends((*inode_)->number);
    (*inode_)->truncates -= 1;
  }

 private:
  enum class State : std::uint8_t { before, waits, over };
  KernelCache* const kernel_;
  const std::shared_ptr<InodeRef> inode_;
  std::mutex mutex_;  // protects state_
  State state_ = State::before;
};

constexpr std::uint64_t kMaxFileBytes = INT64_MAX;

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

Result<Verdict> proceed_if(const Status& committed) {
  if (!committed) return std::unexpected(committed.error());
  return Verdict::proceed;
}

}  // namespace

void Filesystem::zero_in_place(Inode& inode, FileOffset offset, ByteCount length) {
  const std::uint64_t end = offset.value + length.value;
  inode.extents->for_each(covering(offset, length), [&](const Extent& extent) {
    if (extent.unwritten) return;
    const std::uint64_t from = std::max(offset.value, offset_of(extent.file).value);
    const std::uint64_t to = std::min(end, offset_of(extent.end()).value);
    const PoolOffset at = offset_of(extent.pool) + ByteCount(from - offset_of(extent.file).value);
    mount_.volume.medium().zero(at, ByteCount(to - from));
  });
}

bool Filesystem::drop_privileges_unasked(Inode& inode) {
  const std::uint16_t before = inode.record.mode;
  drop_setid_bits(inode);
  if (inode.record.mode == before) return false;
  if (KernelCache* const kernel = mount_.kernel) kernel->invalidate_attributes(inode.number);
  return true;
}

void Filesystem::zero_behind_end(Inode& inode, std::uint64_t size) {
  const std::uint64_t old = inode.record.size;
  if (size <= old) return;
  // Not the rest of the last block alone: what was preallocated behind the end can have been
  // pinned, and written by its holder.
  zero_in_place(inode, FileOffset(old), ByteCount(size - old));
}

Status Filesystem::grow_to(Inode& inode, std::uint64_t size) {
  zero_behind_end(inode, size);
  mount_.volume.medium().fence();
  inode.record.size = std::max(inode.record.size, size);
  inode.mtime = inode.ctime = file_time_now();
  Transaction tx;
  stage(tx, inode);
  return commit(tx);
}

Result<Verdict> Filesystem::detach_at_gate(Inode& inode, const Detach& detach,
                                           const Detacher& detacher, const TicketRef& ticket,
                                           const std::function<void()>& prepare) {
  // It may have waited since it began.
  if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
  const FileRange range = detach.range;
  const std::vector<PoolRange> blocks = inode.extents->physical(range);
  const auto verdict = gate_.judge(ticket, {.holder = detacher.through,
                                            .inode = inode.number,
                                            .range = range,
                                            .blocks = blocks,
                                            .requester = detacher.requester,
                                            .reason = detach.reason,
                                            .policy = policy_of(inode),
                                            .offset = detach.offset,
                                            .length = detach.length});
  if (!verdict || *verdict == Verdict::parked) return verdict;
  sync_times(inode);
  if (const Status ready =
          prepare_detach(mount_.volume, inode.number, inode.record, *inode.extents, range);
      !ready) {
    return proceed_if(acknowledge(ready));
  }
  prepare();
  sync_times(inode);
  std::vector<PoolRange> removed;
  const Status committed =
      detach_extents(mount_.volume, inode.number, inode.record, *inode.extents, range, removed);
  gate_.detached(ticket, removed);
  return proceed_if(acknowledge(committed));
}

void Filesystem::apply(Inode& inode, const AttributeChange& change, std::int64_t now) {
  pmem::InodeRecord& record = inode.record;
  if (change.mode)
    record.mode = static_cast<std::uint16_t>((record.mode & S_IFMT) | (*change.mode & 07777));
  if (change.uid || change.gid || change.drop_privileges) {
    // A new owner must not inherit the old one's privileges; the kernel sends the mode along if
    // root keeps them.
    if (!change.mode && !inode.is_directory()) drop_setid_bits(inode);
  }
  if (change.uid) record.uid = *change.uid;
  if (change.gid) record.gid = *change.gid;
  if (change.atime_ns) inode.atime = *change.atime_ns;
  if (change.mtime_ns) inode.mtime = *change.mtime_ns;
  inode.ctime = change.ctime_ns.value_or(now);
}

Result<Verdict> Filesystem::change_once(Inode& inode, const AttributeChange& change,
                                        const Detacher& detacher, const TicketRef& ticket) {
  const std::unique_lock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  const std::int64_t now = file_time_now();
  if (!change.size) {
    apply(inode, change, now);
    Transaction tx;
    stage(tx, inode);
    return proceed_if(commit(tx));
  }

  const std::uint64_t size = *change.size;
  const auto finish = [&] {
    if (size < inode.record.size) {
      note_end(inode, size);
      given_.zeroed(inode.number, FileOffset(size), ByteCount(UINT64_MAX));
    }
    inode.record.size = size;
    inode.mtime = now;
    apply(inode, change, now);
  };
  const FileRange tail = to_end(FileBlock(blocks_for(ByteCount(size)).value));
  if (size > inode.record.size) {
    zero_behind_end(inode, size);
    mount_.volume.medium().fence();
  } else if (inode.extents->first_from(tail.start)) {
    const Detach detach{.range = tail,
                        .offset = FileOffset(size),
                        .length = ByteCount(inode.record.size - size),
                        .reason = DetachReason::truncate};
    return detach_at_gate(inode, detach, detacher, ticket, finish);
  }
  finish();
  Transaction tx;
  stage(tx, inode);
  return proceed_if(commit(tx));
}

void Filesystem::set_attributes(InodeNumber number, const AttributeChange& change,
                                std::optional<HolderId> through, const Caller& caller,
                                const CancellationRef& cancellation, Completion<struct stat> done) {
  if (const Status ok = writable(); !ok) return done(std::unexpected(ok.error()));
  auto ref = cache_.get(number);
  if (!ref) return done(std::unexpected(ref.error()));
  const auto inode = std::make_shared<InodeRef>(std::move(*ref));
  const auto answer = [ this, inode ](const Result<Verdict>& verdict) -> Result<struct stat> {
    if (!verdict) return std::unexpected(verdict.error());
    struct stat out {};
    const std::shared_lock guard((*inode)->lock);
    fill_attributes(**inode, out);
    return out;
  };
  if (change.size || change.uid || change.gid) {
    if (const Status dropped = drop_capability(**inode); !dropped)
      return done(std::unexpected(dropped.error()));
  }
  if (!change.size) return done(answer(change_once(**inode, change, {}, nullptr)));

  if ((*inode)->is_directory()) return done(fail(EISDIR));
  if (!(*inode)->is_regular()) return done(fail(EINVAL));
  if (*change.size > kMaxFileBytes) return done(fail(EFBIG));
  if (const Status loaded = load_extents(**inode); !loaded)
    return done(std::unexpected(loaded.error()));
  const Detacher detacher{{processes_.process(caller.thread), caller.uid}, through};
  const auto wait = std::make_shared<TruncateWait>(mount_.kernel, inode);
  run_at_gate(cancellation, [this, inode, change, detacher, answer, wait,
                             done = std::move(done)](const TicketRef& ticket) {
    const auto verdict = change_once(**inode, change, detacher, ticket);
    if (verdict && *verdict == Verdict::parked) {
      wait->begin();
      return true;
    }
    done(answer(verdict));
    wait->end();
    return false;
  });
}

Result<Verdict> Filesystem::punch_once(Inode& inode, FileOffset offset, ByteCount length,
                                       const Detacher& detacher, const TicketRef& ticket) {
  const std::unique_lock guard(inode.lock);
  const FileRange whole = whole_blocks(offset, length);
  const std::uint64_t end = offset.value + length.value;
  // The parts of blocks at both ends are zeroed where they are: no detach.
  const auto finish = [&] {
    const std::uint64_t whole_start = offset_of(whole.start).value;
    if (whole.empty()) {
      zero_in_place(inode, offset, length);
    } else {
      zero_in_place(inode, offset, ByteCount(whole_start - offset.value));
      zero_in_place(inode, offset_of(whole.end()), ByteCount(end - offset_of(whole.end()).value));
    }
    mount_.volume.medium().fence();
    given_.zeroed(inode.number, offset, length);
    inode.mtime = inode.ctime = file_time_now();
    if (detacher.requester.uid != 0) drop_privileges_unasked(inode);
  };
  if (!whole.empty()) {
    const auto first = inode.extents->first_from(whole.start);
    if (first && first->file < whole.end()) {
      const Detach detach{
          .range = whole, .offset = offset, .length = length, .reason = DetachReason::punch};
      return detach_at_gate(inode, detach, detacher, ticket, finish);
    }
  }
  finish();
  Transaction tx;
  stage(tx, inode);
  return proceed_if(commit(tx));
}

void Filesystem::punch_hole(OpenFile& file, FileOffset offset, ByteCount length,
                            const Caller& caller, const CancellationRef& cancellation, Done done) {
  if (const Status ok = writable(); !ok) return done(ok);
  if (!file.writable) return done(fail(EBADF));
  if (const Status ok = check_range(offset, length); !ok) return done(ok);
  if (const Status loaded = load_extents(*file.inode); !loaded) return done(loaded);
  if (const Status dropped = drop_capability(*file.inode); !dropped) return done(dropped);
  const Detacher detacher{{processes_.process(caller.thread), caller.uid}, file.holder};
  // Like pin(): until its lock is let go.
  run_at_gate(cancellation, [=, this, kept = file.shared_from_this(),
                             done = std::move(done)](const TicketRef& ticket) {
    const auto verdict = punch_once(*kept->inode, offset, length, detacher, ticket);
    if (verdict && *verdict == Verdict::parked) return true;
    done(verdict ? Status() : std::unexpected(verdict.error()));
    return false;
  });
}

Status Filesystem::fill_holes(Inode& inode, FileRange range, Fill fill, std::uint64_t size,
                              std::size_t spare_slots) {
  std::vector<FileRange> holes;
  BlockCount missing;
  for (FileBlock at = range.start; at < range.end();) {
    const auto run = inode.extents->run_at(at, range.end() - at);
    if (!run.pool) {
      holes.push_back(run.range);
      missing += run.range.count;
    }
    at = run.range.end();
  }
  if (holes.empty()) return {};
  if (mount_.volume.allocator().free_blocks() < missing) return fail(ENOSPC);

  const auto last = inode.extents->last();
  std::vector<PoolRange> blocks;
  if (const Status got = mount_.volume.allocator().allocate(
          missing, last ? last->pool + last->count : PoolBlock(0), blocks);
      !got) {
    return got;
  }
  // Pieces: where holes and runs of new blocks overlap. An insert takes at most one slot each; all
  // of them now, so that nothing can fail once the first piece is committed.
  Transaction tx;
  const std::size_t pieces = holes.size() + blocks.size() - 1;
  if (const Status room = inode.extents->reserve(tx, inode.record, pieces + spare_slots); !room) {
    for (const PoolRange& unused : blocks) (void)mount_.volume.allocator().free(unused);
    return room;
  }
  if (fill == Fill::zeroed) {
    for (const PoolRange& range_to_zero : blocks) {
      mount_.volume.medium().zero(offset_of(range_to_zero.start), bytes(range_to_zero.count));
    }
    mount_.volume.medium().fence();
  }
  const std::size_t per_commit = changes_per_commit(mount_.volume.journal(), 2);
  std::size_t in_transaction = 0;
  std::size_t hole = 0;
  std::size_t run = 0;
  Status committed;  // the last one counts: none succeeds behind one that failed
  while (hole < holes.size()) {
    const BlockCount count = std::min(holes[hole].count, blocks[run].count);
    inode.extents->insert(tx, {.file = holes[hole].start,
                               .pool = blocks[run].start,
                               .count = count,
                               .unwritten = fill == Fill::unwritten});
    holes[hole] = {holes[hole].start + count, holes[hole].count - count};
    blocks[run] = {blocks[run].start + count, blocks[run].count - count};
    if (holes[hole].empty()) ++hole;
    if (blocks[run].empty()) ++run;
    if (++in_transaction < per_commit && hole < holes.size()) continue;

    inode.record.blocks = inode.extents->mapped().value;
    inode.ctime = file_time_now();
    if (hole == holes.size() && size > inode.record.size) {
      zero_behind_end(inode, size);
      mount_.volume.medium().fence();
      inode.record.size = size;
      inode.mtime.store(inode.ctime);
    }
    stage(tx, inode);
    committed = commit(tx);
    tx.clear();
    in_transaction = 0;
  }
  return committed;
}

Status Filesystem::allocate(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                            const Caller& caller) {
  return fill_range(file, offset, length, keep_size, false, caller.uid);
}

Status Filesystem::zero_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                              const Caller& caller) {
  return fill_range(file, offset, length, keep_size, true, caller.uid);
}

Status Filesystem::fill_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                              bool zero, uid_t uid) {
  if (const Status ok = writable(); !ok) return ok;
  if (!file.writable) return fail(EBADF);
  if (const Status ok = check_range(offset, length); !ok) return ok;
  Inode& inode = *file.inode;
  if (const Status loaded = load_extents(inode); !loaded) return loaded;
  if (const Status dropped = drop_capability(inode); !dropped) return dropped;
  const std::unique_lock guard(inode.lock);
  const std::uint64_t end = keep_size ? 0 : offset.value + length.value;
  if (const Status filled = fill_holes(inode, covering(offset, length), Fill::unwritten, end);
      !filled) {
    return filled;
  }
  // Written blocks are zeroed in place, so that no pin ever stands in the way.
  if (zero) {
    zero_in_place(inode, offset, length);
    given_.zeroed(inode.number, offset, length);
  }
  const bool dropped = uid != 0 && drop_privileges_unasked(inode);
  if (zero || dropped || end > inode.record.size) return grow_to(inode, end);
  return {};
}

Result<FileOffset> Filesystem::seek(OpenFile& file, FileOffset from, int whence, bool written) {
  Inode& inode = *file.inode;
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return fail(EINVAL);
  if (const Status loaded = load_extents(inode); !loaded) return std::unexpected(loaded.error());
  const std::shared_lock guard(inode.lock);
  const std::uint64_t size = inode.record.size;
  if (from.value >= size) return fail(ENXIO);
  if (!written) return whence == SEEK_DATA ? from : FileOffset(size);
  std::uint64_t at = from.value;
  while (at < size) {
    const auto run = inode.extents->run_at(
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
