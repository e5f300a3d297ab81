// Attaching to files: the right to copy from and into a file's blocks by oneself, and the doorbells
// in which such copies are counted (docs/direct-access.md; client/direct.cpp is the other side).
//
// A doorbell is a block of the pool that is in no file. It is in limbo, under one pin for each
// process that is attached, which is recorded as every long-term pin is: so it is never free while
// anybody may have it mapped, nothing else has to know of it, and it is free after the last of
// them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "client/doorbell.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/doorbells.h"
#include "src/extents.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/sweeper.h"
#include "src/xattrs.h"

namespace daxfs {

// Thread-safe. Its lock is taken after the inode's and before the gate's.
class DirectAccess {
 public:
  DirectAccess(const Mount& mount, Health& health, Gate& gate, Inodes& inodes, Xattrs& xattrs,
               Extents& extents, Callers& callers);

  struct Terms {
    PinId pin;  // names the attachment; its lock says that it is mapped (blockmap/pin_lock.h)
    doorbell::Attachment attachment;
    PoolOffset page;
  };
  // The caller's process may copy by itself, once it has locked the pin and asked where(). `proof`:
  // it has a write lock of that byte of the pool (kAttachProofs), which only who can open the pool
  // for writing can have. EOPNOTSUPP: the mount has no direct access, or the medium takes more than
  // stores and fences; EACCES: no such lock; EINVAL: no regular file, or the descriptor uses the
  // page cache; ESRCH: who asks cannot be seen; EROFS, ENOSPC, ENOMEM, EIO.
  Result<Terms> attach(OpenFile& file, std::uint64_t proof, const Caller& caller);
  // ENOENT; EBUSY: somebody still maps the doorbell.
  Status detach(OpenFile& file, PinId pin);

  struct Where {
    PinnedExtents found;
    // None: a detach, or the page cache, has the file closed.
    std::optional<std::uint64_t> epoch;
    std::uint64_t additions = 0;
    std::uint64_t size = 0;
  };
  // Where the file's blocks are, for as long as the epoch is that. `pages_dropped`: the kernel has
  // no page of the file but such as it was given since this was called. ENOENT: not attached;
  // EACCES: the pin is not locked.
  Result<Where> where(OpenFile& file, PinId pin, FileOffset offset, ByteCount length,
                      std::size_t limit, bool pages_dropped);

  // The last close of the descriptor. Whoever maps the doorbell all the same keeps it until a look
  // a little later finds that nobody does: the kernel may close a process's descriptors before it
  // gives up the pool that this had mapped.
  void release(OpenFile& file);
  // At the unmount, or when all is shut down: from now on everybody goes through the kernel, nobody
  // attaches (EIO), and what is recorded stays.
  void end();

  // Whether anybody is attached to the file.
  bool is_attached(InodeNumber inode);
  struct Attached {
    PinId pin;
    InodeNumber inode;
    Requester requester;
    HolderId holder;
    bool closed = false;
    std::uint64_t revocations = 0;
  };
  std::vector<Attached> list() const;
  // Whether anybody maps a doorbell beyond the close of its descriptor, and can copy still.
  bool lingers() { return !sweep(); }
  // Those who stand for attachments as holders of pins.
  std::set<HolderId> holders() const;

 private:
  struct Attachment {
    HolderId holder;
    doorbell::Attachment number{};
    AttachedProcess process;
  };
  // The file as somebody has it open: unlinked, it keeps its blocks. For who has closed the
  // descriptor and maps the doorbell all the same copies into them still.
  class KeptOpen {
   public:
    KeptOpen() = default;
    KeptOpen(Inodes& inodes, InodeRef inode) : inodes_(&inodes), inode_(std::move(inode)) {
      inode_->opens += 1;
    }
    KeptOpen(KeptOpen&&) noexcept = default;
    KeptOpen& operator=(KeptOpen&& other) noexcept {
      std::swap(inodes_, other.inodes_);
      std::swap(inode_, other.inode_);
      return *this;
    }
    ~KeptOpen();  // without any lock
    Inode* operator->() const { return &*inode_; }
    Inode& operator*() const { return *inode_; }

   private:
    Inodes* inodes_ = nullptr;
    InodeRef inode_;
  };
  // The doorbell of an open file description.
  struct Bell {
    KeptOpen inode;
    doorbell::Page* page = nullptr;
    PoolBlock block;
    std::map<PinId, Attachment> attached;
  };
  using Bells = std::map<const OpenFile*, Bell>;

  Doorbells& doorbells_of(Inode& inode) EXCLUDES(inode.lock);
  Status check(const OpenFile& file, std::uint64_t proof) const;
  Result<PinId> take_pin(const OpenFile& file, const Bell& bell, const Attachment& attached,
                         bool first, const Requester& requester) REQUIRES(mutex_);
  void end(Bell& bell, PinId pin) REQUIRES(mutex_);
  // Ends the attachments that nobody maps: all of these, or those of processes that have ended.
  // Whether there are none left.
  bool end_unmapped(Bell& bell, bool also_of_the_living) REQUIRES(mutex_);
  // The same for all that are lingering.
  bool sweep() EXCLUDES(mutex_);
  bool is_mapped(PinId pin) const;

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  Inodes& inodes_;
  Xattrs& xattrs_;
  Extents& extents_;
  Callers& callers_;
  mutable Mutex mutex_;
  Bells bells_ GUARDED_BY(mutex_);
  std::vector<Bell> lingering_ GUARDED_BY(mutex_);  // of descriptors that are closed
  bool ended_ GUARDED_BY(mutex_) = false;
  std::optional<Sweeper> sweeper_;  // of these; none: the mount has no direct access
};

}  // namespace daxfs
