// Where a file has blocks and where it has none: fallocate(2) and its modes, SEEK_DATA and
// SEEK_HOLE. (Truncating is in attributes.h.)
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/detaching.h"
#include "src/filling.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/open_file.h"
#include "src/waiting.h"
#include "src/xattrs.h"

namespace daxfs {

// Thread-safe; takes the file's lock. What has succeeded is durable. Errors of all that change:
// EBADF (not open for writing), EINVAL, EFBIG, ENOSPC, EROFS, EIO.
class Space {
 public:
  Space(const Mount& mount, Health& health, Gate& gate, KernelPages& pages, Inodes& inodes,
        Xattrs& xattrs, Filling& filling, Detaching& detaching, Callers& callers)
      : mount_(mount),
        health_(health),
        gate_(gate),
        pages_(pages),
        inodes_(inodes),
        xattrs_(xattrs),
        filling_(filling),
        detaching_(detaching),
        callers_(callers) {}

  // All: EPERM of a file that may not change; of one that may only grow, all but allocate().
  // Space for [offset, offset + length); grows the file unless keep_size.
  Status allocate(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                  const Caller& caller = {});
  // The same, and what was there is zero. Zeroes in place, so that no pin ever stands in the way.
  Status zero_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                    const Caller& caller = {});
  // Asks the gate for the whole blocks, and may wait there; the parts of blocks at both ends are
  // zeroed where they are.
  void punch_hole(OpenFile& file, FileOffset offset, ByteCount length, const Caller& caller,
                  const CancellationRef& cancellation, Done done);
  // SEEK_DATA or SEEK_HOLE; ENXIO behind the end. If not everything is `written`
  // (KernelPages::write_back()), all of the file is data.
  Result<FileOffset> seek(OpenFile& file, FileOffset from, int whence, bool written = true);

 private:
  // A punch, as it is tried each time.
  struct Punch {
    FileOffset offset;
    ByteCount length;
    DetachRequest request;
    Caller caller;
  };
  Result<Verdict> punch_once(Inode& inode, const Punch& punch, const TicketRef& ticket);
  void zero_ends(Inode& inode, const Punch& punch) REQUIRES(inode.lock);
  Status fill_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size, bool zero,
                    const Caller& caller);
  // Whether the caller's change has taken set-id bits away.
  bool take_setid(Inode& inode, const Caller& caller) REQUIRES(inode.lock) {
    return inodes_.take_setid(
        inode, Callers::lost_setid(inode.record.mode, inode.record.gid, caller, false));
  }

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  KernelPages& pages_;
  Inodes& inodes_;
  Xattrs& xattrs_;
  Filling& filling_;
  Detaching& detaching_;
  Callers& callers_;
};

}  // namespace daxfs
