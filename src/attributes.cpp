#include "src/attributes.h"

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/clock.h"
#include "base/mutex.h"
#include "blockmap/volume/detach.h"

namespace daxfs {
namespace {

// Tells the kernel's cache while a truncate waits. Thread-safe: the thread that parked it may still
// be on the way to begin() when another has finished it.
class TruncateWait {
 public:
  TruncateWait(KernelPages& pages, std::shared_ptr<InodeRef> inode)
      : pages_(pages), inode_(std::move(inode)) {}

  void begin() {
    const MutexLock guard(mutex_);
    if (state_ != State::before) return;
    state_ = State::waits;
    pages_.truncate_waits(**inode_);
  }
  void end() {
    const MutexLock guard(mutex_);
    if (std::exchange(state_, State::over) == State::waits) pages_.truncate_ends(**inode_);
  }

 private:
  enum class State : std::uint8_t { before, waits, over };
  KernelPages& pages_;
  const std::shared_ptr<InodeRef> inode_;
  Mutex mutex_;  // taken before inodes' locks: what waits for pages is answered under it
  State state_ GUARDED_BY(mutex_) = State::before;
};

// All but the size.
void apply(Inode& inode, const AttributeChange& change, std::int64_t now) REQUIRES(inode.lock) {
  pmem::InodeRecord& record = inode.record;
  if (change.mode)
    record.mode = static_cast<std::uint16_t>((record.mode & S_IFMT) | (*change.mode & 07777));
  if (change.uid || change.gid || change.drop_privileges) {
    // A new owner must not inherit the old one's privileges; the kernel sends the mode along if
    // root keeps them.
    if (!change.mode && !inode.is_directory()) inode.drop_setid_bits();
  }
  if (change.uid) record.uid = *change.uid;
  if (change.gid) record.gid = *change.gid;
  if (change.atime_ns) inode.atime = *change.atime_ns;
  if (change.mtime_ns) inode.mtime = *change.mtime_ns;
  inode.ctime = change.ctime_ns.value_or(now);
}

}  // namespace

Result<struct stat> Attributes::get(InodeNumber number, std::int64_t* birth_ns) {
  const auto inode = inodes_.get(number);
  if (!inode) return std::unexpected(inode.error());
  struct stat out {};
  inodes_.note_written(**inode);
  const ReaderLock guard((*inode)->lock);
  (*inode)->fill_attributes(out);
  if (birth_ns != nullptr) *birth_ns = (*inode)->record.btime_ns;
  return out;
}

Result<struct stat> Attributes::for_write(const OpenFile& file) {
  if (file.keeps_writes && file.inode->lost_for_space.exchange(false)) return fail(ENOSPC);
  return get(file.inode->number);
}

void Attributes::change_size(Inode& inode, const AttributeChange& change, std::int64_t now) {
  const std::uint64_t size = *change.size;
  if (size < inode.record.size) {
    inode.note_end(size);
    pages_.zeroed(inode, FileOffset(size), ByteCount(UINT64_MAX));
  }
  inode.record.size = size;
  inode.mtime = now;
  apply(inode, change, now);
}

Result<Verdict> Attributes::change_once(Inode& inode, const AttributeChange& change,
                                        const DetachRequest& request, const TicketRef& ticket) {
  const WriterLock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  const std::int64_t now = file_time_now();
  if (!change.size) {
    apply(inode, change, now);
    return proceed_if(inodes_.commit(inode));
  }

  const std::uint64_t size = *change.size;
  const FileRange tail = to_end(FileBlock(blocks_for(ByteCount(size)).value));
  if (size > inode.record.size) {
    filling_.zero_behind_end(inode, size);
    mount_.volume.medium().fence();
  } else if (inode.extents->first_from(tail.start)) {
    DetachRequest asked = request;
    asked.range = tail;
    asked.offset = FileOffset(size);
    asked.length = ByteCount(inode.record.size - size);
    const auto verdict = detaching_.ask(inode, asked, ticket);
    if (!verdict || *verdict == Verdict::parked) return verdict;
    change_size(inode, change, now);
    return cut_off(inode, tail, detaching_.take(inode, tail, ticket));
  }
  change_size(inode, change, now);
  return cut_off(inode, tail, inodes_.commit(inode));
}

// It has the new size, if it was committed.
Result<Verdict> Attributes::cut_off(Inode& inode, FileRange tail, const Status& committed) {
  if (committed && filling_.clears_behind_end()) {
    filling_.clear_behind_end(inode, offset_of(tail.start).value);
    mount_.volume.medium().fence();
  }
  return proceed_if(committed);
}

void Attributes::set(InodeNumber number, const AttributeChange& change,
                     std::optional<HolderId> through, const Caller& caller,
                     const CancellationRef& cancellation, Completion<struct stat> done) {
  if (const Status ok = health_.writable(); !ok) return done(std::unexpected(ok.error()));
  auto ref = inodes_.get(number);
  if (!ref) return done(std::unexpected(ref.error()));
  const auto inode = std::make_shared<InodeRef>(std::move(*ref));
  // Before: a time that is set now is later than what clients have written until now.
  inodes_.note_written(**inode);
  const auto answer = [inode](const Result<Verdict>& verdict) -> Result<struct stat> {
    if (!verdict) return std::unexpected(verdict.error());
    struct stat out {};
    const ReaderLock guard((*inode)->lock);
    (*inode)->fill_attributes(out);
    return out;
  };
  if (change.size || change.uid || change.gid) {
    if (const Status dropped = xattrs_.drop_capability(**inode); !dropped)
      return done(std::unexpected(dropped.error()));
  }
  if (!change.size) return done(answer(change_once(**inode, change, {}, nullptr)));

  if ((*inode)->is_directory()) return done(fail(EISDIR));
  if (!(*inode)->is_regular()) return done(fail(EINVAL));
  if (*change.size > kMaxFileBytes) return done(fail(EFBIG));
  if (const Status loaded = inodes_.load_extents(**inode); !loaded)
    return done(std::unexpected(loaded.error()));
  const DetachRequest request{
      .holder = through, .requester = callers_.requester(caller), .reason = DetachReason::truncate};
  const auto wait = std::make_shared<TruncateWait>(pages_, inode);
  run_at_gate(gate_, cancellation, inode,
              [this, inode, change, request, answer, wait,
               done = std::move(done)](const TicketRef& ticket) {
                const auto verdict = change_once(**inode, change, request, ticket);
                if (verdict && *verdict == Verdict::parked) {
                  wait->begin();
                  return true;
                }
                done(answer(verdict));
                wait->end();
                return false;
              });
}

}  // namespace daxfs
