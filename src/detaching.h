// Taking blocks away from a file: ask the gate, the caller's own changes, take the blocks.
//
//     judge() or ask() ── error ─────────► nothing was changed; answer it
//         │ ├──── parked ──► let go of the lock; the request is tried again from its beginning
//         │ └──── proceed ─► change the record (size, times) ──► take()
//
// Nothing between ask() and take() may fail.
#pragma once

#include "base/result.h"
#include "lease/gate.h"
#include "src/copies.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/policies.h"

namespace daxfs {

// The end of an operation that the gate has let go ahead: what may be told of it.
inline Result<Verdict> proceed_if(const Status& committed) {
  if (!committed) return std::unexpected(committed.error());
  return Verdict::proceed;
}

// Has no state of its own. The inode's lock is held exclusively from before ask() until after
// take().
class Detaching {
 public:
  Detaching(const Mount& mount, Health& health, Gate& gate, Policies& policies, Copies& copies)
      : mount_(mount), health_(health), gate_(gate), policies_(policies), copies_(copies) {}

  // Has no copy of direct access begin until the ticket ends, and asks the gate about what the
  // inode has in `request.range`. The caller fills in the requester and the reason; which
  // inode and blocks, and whose policy, is filled in here. Errors: as Gate::judge(); EROFS, EIO
  // (the filesystem may have stopped while the request waited).
  Result<Verdict> judge(Inode& inode, DetachRequest request, const TicketRef& ticket)
      REQUIRES(inode.lock);
  // judge(), and where it may proceed, makes sure that take() of the same range cannot fail but for
  // the storage. ENOSPC.
  Result<Verdict> ask(Inode& inode, const DetachRequest& request, const TicketRef& ticket)
      REQUIRES(inode.lock);
  // Unmaps the range, commits the inode's record, and hands the blocks to the gate. Precondition:
  // ask() has said proceed, under the same hold of the lock. EIO: it may be lost, or happen at the
  // next mount.
  [[nodiscard]] Status take(Inode& inode, FileRange range, const TicketRef& ticket)
      REQUIRES(inode.lock);

 private:
  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  Policies& policies_;
  Copies& copies_;
};

}  // namespace daxfs
