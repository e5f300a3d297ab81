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
void apply(Inode& inode, const AttributeChange& change, const Caller& caller, std::int64_t now,
           std::optional<WrittenXattrs>& acl) REQUIRES(inode.lock) {
  pmem::InodeRecord& record = inode.record;
  if (change.mode)
    record.mode = static_cast<std::uint16_t>((record.mode & S_IFMT) | (*change.mode & 07777));
  if (acl) acl->show_in(record);
  // A chown(2) that leaves both as they are takes the bits away, too. The same comes before a
  // write to a file: of others than the owner, and there the write does it; and where the kernel
  // has just removed security.capability, there they may be to stay.
  auto removed = Inode::Capability::removed;
  const bool may_write = inode.is_regular() && inode.capability == removed;
  const bool owners =
      change.is_empty() && !may_write && (caller.uid == 0 || caller.uid == record.uid);
  // It was for this change.
  if (change.uid || change.gid || change.size || change.is_empty())
    inode.capability.compare_exchange_strong(removed, Inode::Capability::none);
  if (change.uid || change.gid || change.drop_privileges || owners) {
    // A new owner must not inherit the old one's privileges; the kernel sends the mode along if
    // root keeps them.
    if (!change.mode && !inode.is_directory()) {
      const mode_t lost = Callers::lost_setid(record.mode, record.gid, caller, true);
      record.mode = static_cast<std::uint16_t>(record.mode & ~lost);
    }
  }
  if (change.uid) record.uid = *change.uid;
  if (change.gid) record.gid = *change.gid;
  if (change.atime_ns) inode.atime = *change.atime_ns;
  if (change.mtime_ns) inode.mtime = *change.mtime_ns;
  inode.ctime = change.ctime_ns.value_or(now);
}

// As the kernel's setattr_prepare() of filesystems whose flags it knows.
Status check_flags(const Inode& inode, const AttributeChange& change) REQUIRES_SHARED(inode.lock) {
  if (change.of_kept_writes) return {};
  if (inode.is_immutable()) return fail(EPERM);
  const bool sets_times = (change.atime_ns || change.mtime_ns) && !change.times_are_now;
  if (inode.is_append_only() &&
      (change.mode || change.uid || change.gid || change.size || sets_times)) {
    return fail(EPERM);
  }
  return {};
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
  Inode& inode = *file.inode;
  if (file.keeps_writes && inode.lost_for_space.exchange(false)) return fail(ENOSPC);
  if (file.keeps_writes) {
    const ReaderLock guard(inode.lock);
    if (inode.is_immutable() || (inode.is_append_only() && !file.appends)) return fail(EPERM);
  }
  return get(inode.number);
}

bool Attributes::must_ask_again(InodeNumber number) {
  if (!pages_.keeps_writes()) return false;
  const auto inode = inodes_.get(number);
  if (!inode || (*inode)->cached_writers == 0) return false;
  const ReaderLock guard((*inode)->lock);
  return (*inode)->is_protected();
}

void Attributes::change_size(Inode& inode, const AttributeChange& change, const Caller& caller,
                             std::int64_t now, std::optional<WrittenXattrs>& acl) {
  const std::uint64_t size = change.size.value_or(inode.record.size);
  if (size < inode.record.size) {
    inode.note_end(size);
    pages_.zeroed(inode, FileOffset(size), ByteCount(UINT64_MAX));
  }
  inode.record.size = size;
  inode.mtime = now;
  apply(inode, change, caller, now, acl);
}

Result<Verdict> Attributes::change_once(Inode& inode, const AttributeChange& change,
                                        const Caller& caller, const DetachRequest& request,
                                        const TicketRef& ticket) {
  const WriterLock guard(inode.lock);
  if (inode.disposed && inode.is_regular()) return fail(ESTALE);
  if (const Status may = check_flags(inode, change); !may) return std::unexpected(may.error());
  const std::int64_t now = file_time_now();
  std::optional<WrittenXattrs> acl;  // ends with the lock held
  if (change.mode) {
    auto followed = acls_.follow(inode, *change.mode);
    if (!followed) return std::unexpected(followed.error());
    if (auto& list = *followed) acl.emplace(std::move(*list));
  }
  if (!change.size) {
    apply(inode, change, caller, now, acl);
    // Of a directory that was removed while it was open, only those see it who have it open.
    return proceed_if(inode.disposed ? Status() : inodes_.commit(inode));
  }

  const std::uint64_t size = *change.size;
  const FileRange tail = to_end(FileBlock(blocks_for(ByteCount(size)).value));
  if (size > inode.record.size) {
    filling_.zero_behind_end(inode, size);
    mount_.volume.medium().fence();
  } else if (inode.map().first_from(tail.start)) {
    DetachRequest asked = request;
    asked.range = tail;
    asked.offset = FileOffset(size);
    asked.length = ByteCount(inode.record.size - size);
    const auto verdict = detaching_.ask(inode, asked, ticket);
    if (!verdict || *verdict == Verdict::parked) return verdict;
    change_size(inode, change, caller, now, acl);
    return cut_off(inode, tail, detaching_.take(inode, tail, ticket));
  }
  change_size(inode, change, caller, now, acl);
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
    {
      const ReaderLock guard((*inode)->lock);
      if (const Status may = check_flags(**inode, change); !may)
        return done(std::unexpected(may.error()));
    }
    if (const Status dropped =
            (*inode)->is_directory() ? Status() : xattrs_.drop_capability(**inode);
        !dropped)
      return done(std::unexpected(dropped.error()));
  }
  if (!change.size) return done(answer(change_once(**inode, change, caller, {}, nullptr)));

  if ((*inode)->is_directory()) return done(fail(EISDIR));
  if (!(*inode)->is_regular()) return done(fail(EINVAL));
  if (*change.size > kMaxFileBytes) return done(fail(EFBIG));
  if (const Status loaded = inodes_.load_extents(**inode); !loaded)
    return done(std::unexpected(loaded.error()));
  const DetachRequest request{
      .holder = through, .requester = callers_.requester(caller), .reason = DetachReason::truncate};
  const auto wait = std::make_shared<TruncateWait>(pages_, inode);
  run_at_gate(gate_, cancellation, inode,
              [this, inode, change, caller, request, answer, wait,
               done = std::move(done)](const TicketRef& ticket) {
                const auto verdict = change_once(**inode, change, caller, request, ticket);
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
