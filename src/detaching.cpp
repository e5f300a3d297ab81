#include "src/detaching.h"

#include <vector>

#include "base/kernel_version.h"
#include "blockmap/volume/detach.h"

namespace daxfs {
namespace {

// How long a detach may hold up what the kernel does for it. With cache=writeback close(2) writes
// the file's dirty pages first, which a truncate that waits keeps from being written; and before
// Linux 6.16 it takes the file's lock, which every request that waits has. The close may be what
// such a request waits for; and FUSE has no way to let the kernel go on and to wait all the same.
constexpr std::chrono::seconds kHoldsUpClose{10};

bool may_hold_up_close(const Inode& inode, DetachReason reason) {
  static const bool close_takes_lock = !kernel_is_at_least(6, 16);
  return close_takes_lock || (reason == DetachReason::truncate && inode.cached_writers != 0);
}

}  // namespace

Result<Verdict> Detaching::judge(Inode& inode, DetachRequest request, const TicketRef& ticket) {
  // It may have waited since it began.
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  const std::vector<PoolRange> blocks = inode.map().physical(request.range);
  request.inode = inode.number;
  request.blocks = blocks;
  request.policy = policies_.of(inode);
  if (mount_.options.cache == CacheMode::writeback && may_hold_up_close(inode, request.reason)) {
    request.longest = kHoldsUpClose;
  }
  const bool copied = Copies::any(inode);
  if (copied) copies_.revoke(inode, request.range, blocks, ticket);
  const auto verdict = gate_.judge(ticket, request);
  if (!copied || !verdict || *verdict != Verdict::proceed) return verdict;
  if (const Status kept = copies_.record(inode, blocks); !kept)
    return std::unexpected(kept.error());
  return verdict;
}

Result<Verdict> Detaching::ask(Inode& inode, const DetachRequest& request,
                               const TicketRef& ticket) {
  const auto verdict = judge(inode, request, ticket);
  if (!verdict || *verdict == Verdict::parked) return verdict;
  inode.sync_times();
  if (const Status ready = prepare_detach(mount_.volume, inode.number, inode.record,
                                          inode.map_to_change(), request.range);
      !ready) {
    return std::unexpected(health_.acknowledge(ready).error());
  }
  return Verdict::proceed;
}

Status Detaching::take(Inode& inode, FileRange range, const TicketRef& ticket) {
  inode.sync_times();
  std::vector<PoolRange> removed;
  const Status committed = detach_extents(mount_.volume, inode.number, inode.record,
                                          inode.map_to_change(), range, removed);
  if (Doorbells* const bells = inode.doorbells.load(std::memory_order_acquire))
    bells->publish(inode.record.size);
  gate_.detached(ticket, removed);
  return health_.acknowledge(committed);
}

}  // namespace daxfs
