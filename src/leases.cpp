#include "src/leases.h"

#include <utility>

#include "base/byte_range.h"
#include "client/daxfs.h"

namespace daxfs {

void Leases::lease(OpenFile& file, const LeaseRange& range, LeaseId lease, const Caller& caller,
                   const CancellationRef& cancellation, Completion<LeaseId> done) {
  constexpr std::uint32_t known = DAXFS_LEASE_EXCLUSIVE | DAXFS_LEASE_NOWAIT | DAXFS_LEASE_SHRINK;
  const Inode& inode = *file.inode;
  if (!inode.is_regular()) return done(fail(EINVAL));
  if ((range.flags & ~known) != 0 || !is_byte_range(range.offset, range.length)) {
    return done(fail(EINVAL));
  }
  if ((range.flags & DAXFS_LEASE_SHRINK) != 0) {
    if (range.flags != DAXFS_LEASE_SHRINK) return done(fail(EINVAL));
    const Status shrunk = gate_.shrink_lease(file.holder, lease, range.offset, range.length);
    return done(shrunk ? Result<LeaseId>(lease) : std::unexpected(shrunk.error()));
  }
  const bool exclusive = (range.flags & DAXFS_LEASE_EXCLUSIVE) != 0;
  if (!file.readable || (exclusive && !file.writable)) return done(fail(EBADF));

  const LeaseRequest request{.holder = file.holder,
                             .inode = inode.number,
                             .offset = range.offset,
                             .length = range.length,
                             .requester = callers_.requester(caller),
                             .exclusive = exclusive,
                             .nowait = (range.flags & DAXFS_LEASE_NOWAIT) != 0};
  file.ever_pinned = true;
  const OpenFileRef kept = file.shared_from_this();
  run_at_gate(gate_, cancellation, kept,
              [this, request, done = std::move(done)](const TicketRef& ticket) {
                if (const Status ok = health_.durable(); !ok) {
                  done(std::unexpected(ok.error()));
                  return false;
                }
                const auto taken = gate_.lease(ticket, request);
                if (taken && !*taken) return true;
                done(taken ? Result<LeaseId>(**taken) : std::unexpected(taken.error()));
                return false;
              });
}

}  // namespace daxfs
