// Judging a request to take blocks out of a file, and where the blocks go.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/require.h"
#include "lease/gate_impl.h"

namespace daxfs {
namespace {

SteadyTime after(SteadyTime start, std::uint64_t ms) {
  constexpr std::uint64_t kTenYears = 10ull * 366 * 24 * 3600 * 1000;
  return ms > kTenYears ? kNever : start + std::chrono::milliseconds(ms);
}

Repeats::Key identity(const DetachRequest& request) {
  return {.what = Repeats::What::detach,
          .reason = request.reason,
          .process = request.requester.process,
          .takes = {request.inode, request.range},
          .holder = request.holder};
}

struct InTheWay {
  BlockCount blocks;    // with awaited pins, whoever has them
  Obstacles obstacles;  // with awaited pins of others
};

InTheWay in_the_way(const PinCountMap& counts, const DetachRequest& request, Awaited awaited) {
  InTheWay result;
  result.obstacles.awaited = awaited;
  result.obstacles.process = request.requester.process;
  std::vector<PoolRange>& pieces = result.obstacles.pieces;
  for (const PoolRange& range : request.blocks) {
    counts.walk(range, [&](PoolRange piece, const PinCountMap::Cover& cover) {
      if (!cover.has(awaited)) return true;
      result.blocks += piece.count;
      if (!counts.foreign(cover, awaited, request.requester.process)) return true;
      if (!pieces.empty() && pieces.back().end() == piece.start) {
        pieces.back().count += piece.count;
      } else {
        pieces.push_back(piece);
      }
      return true;
    });
  }
  return result;
}

}  // namespace

Result<Verdict> Gate::judge(const TicketRef& ticket, const DetachRequest& request) {
  Impl::Aftermath aftermath;
  const Result<Verdict> verdict = [&] {
    const MutexLock lock(impl_->mutex);
    const Result<Verdict> judged = impl_->judge(ticket, request, aftermath);
    impl_->notify();
    return judged;
  }();
  impl_->finish(aftermath);
  return verdict;
}

Result<Verdict> Gate::Impl::judge(const TicketRef& ticket, const DetachRequest& request,
                                  Aftermath& aftermath) {
  const PinPolicy word = request.policy.value_or(options.pin_policy);
  ticket->about = about(request, word);
  ticket->takes = {request.inode, request.range};
  parked.forget(*ticket);
  ticket->user = request.requester.uid;
  release_reservation(*ticket, ticket->limbo_reserved);
  ticket->free_all = false;
  if (stopping) return refuse(*ticket, EINTR);
  take_place(*ticket, identity(request));

  const LeaseTable::InTheWay leased =
      leases.in_the_way(request.inode, request.range, request.holder, request.requester.process);
  if (leased.exclusive && word != PinPolicy::ignore) return refuse(*ticket, ETXTBSY);

  const SteadyTime now = hooks.now();
  Progress& progress = ticket->progress;
  if (!progress.first_judged) progress.first_judged = now;
  if (!progress.shorts_are_long) {
    const SteadyTime limit = after(*progress.first_judged, options.short_timeout_ms);
    if (now >= limit) {
      progress.shorts_are_long = true;
    } else if (InTheWay shorts = in_the_way(counts, request, Awaited::short_term);
               shorts.blocks.value > 0) {
      end_breaks(*ticket);
      return wait(ticket, request, std::move(shorts.obstacles), limit);
    }
  }

  // From here on every pin in the way counts as long-term.
  InTheWay in_way = in_the_way(counts, request, Awaited::any);
  if (in_way.blocks.value == 0 && leased.leases.empty()) {
    note_resumed(*ticket);
    return Verdict::proceed;
  }

  const Conflict conflict{.long_pinned = in_way.blocks,
                          .leases = leased.leases.size(),
                          .limbo_now = limbo.total() + limbo_reserved,
                          .limbo_limit = BlockCount(options.limbo_limit.value >> kBlockShift)};
  const DetachPolicy& policy = hooks.policies(word);
  Ruling ruling = policy.judge(conflict, options);
  if (ruling.kind == Ruling::Kind::park) {
    if (progress.waits_under != &policy) {
      progress.waits_under = &policy;
      progress.waits_since = now;
      progress.latest = hooks.latest ? hooks.latest(request, now) : kNever;
    }
    const SteadyTime limit =
        ruling.timeout_ms == 0 ? kNever : after(progress.waits_since, ruling.timeout_ms);
    if (now < limit && now >= progress.latest) {
      post(GateEvent::Kind::timeout, ticket->about);
      return refuse(*ticket, ETXTBSY);
    }
    if (now < limit) {
      const SteadyTime until = std::min(limit, progress.latest);
      in_way.obstacles.leases = ruling.breaks && leased.foreign;
      // Where all that is in the way is the process's own, wait() refuses, and nobody is told; nor
      // for a request that has been interrupted, or may not wait.
      if (ruling.breaks && !in_way.obstacles.none() && may_wait(*ticket)) {
        break_leases(*ticket, request, leased.leases, until, aftermath);
      } else {
        end_breaks(*ticket);
      }
      return wait(ticket, request, std::move(in_way.obstacles), until);
    }
    post(GateEvent::Kind::timeout, ticket->about);
    const bool broken = ruling.breaks;
    ruling = on_timeout(conflict);
    if (broken && ruling.kind == Ruling::Kind::to_limbo) {
      revoke_leases(request, leased.leases, aftermath);
      note_resumed(*ticket);
      return reserve_limbo(*ticket, in_way.blocks);
    }
  }
  switch (ruling.kind) {
    case Ruling::Kind::to_limbo:
      tell_leases(*ticket, request, leased.leases, aftermath);
      note_resumed(*ticket);
      return reserve_limbo(*ticket, in_way.blocks);
    case Ruling::Kind::free_all:
      tell_leases(*ticket, request, leased.leases, aftermath);
      note_resumed(*ticket);
      ticket->free_all = true;
      return Verdict::proceed;
    case Ruling::Kind::refuse:
    case Ruling::Kind::park:  // a second one, after the timeout, is no answer
      break;
  }
  const bool has_error = ruling.kind == Ruling::Kind::refuse && ruling.error != 0;
  return refuse(*ticket, has_error ? ruling.error : ETXTBSY);
}

// The limit must hold for all who go ahead before the first of them has arrived.
Verdict Gate::Impl::reserve_limbo(Ticket& ticket, BlockCount count) {
  ticket.limbo_reserved = count;
  limbo_reserved += count;
  return Verdict::proceed;
}

Ruling Gate::Impl::on_timeout(const Conflict& conflict) const {
  const PinPolicy then =
      options.on_timeout == OnTimeout::defer ? PinPolicy::defer : PinPolicy::refuse;
  return hooks.policies(then).judge(conflict, options);
}

Result<Verdict> Gate::Impl::wait(const TicketRef& ticket, const DetachRequest& request,
                                 Obstacles obstacles, SteadyTime deadline) {
  if (obstacles.none()) return refuse(*ticket, EDEADLK);
  const Status may = may_wait(*ticket);
  if (may == fail(EAGAIN)) return refuse(*ticket, EAGAIN);
  const Fences::Fence fence{request.inode, request.range};
  if (ticket->fence != fence) {
    lift_fence(*ticket);
    fences.raise(ticket->arrival, fence);
    ticket->fence = fence;
  }
  if (!may) return interrupt(*ticket, identity(request));
  note_waiting(*ticket);
  parked.park_detach(ticket, std::move(obstacles), std::min(deadline, ticket->interrupt_at));
  return Verdict::parked;
}

void Gate::Impl::release_reservation(Ticket& ticket, BlockCount at_most) {
  const BlockCount count = std::min(ticket.limbo_reserved, at_most);
  DAXFS_REQUIRE(limbo_reserved >= count, "request {}: {} blocks of limbo, of {} that are set aside",
                ticket.arrival, count.value, limbo_reserved.value);
  ticket.limbo_reserved -= count;
  limbo_reserved -= count;
}

BlockCount Gate::Impl::sort_out(std::span<const PoolRange> blocks, std::vector<PoolRange>& freed) {
  const Limbo::Time now = std::chrono::system_clock::now();
  BlockCount kept;
  for (const PoolRange& range : blocks) {
    PoolBlock at = range.start;
    counts.for_each(range, [&](PoolRange piece, PinCounts) {
      mutex.assert_held();
      if (piece.start > at) freed.push_back({at, piece.start - at});
      limbo.add(piece, now);
      kept += piece.count;
      at = piece.end();
    });
    if (at < range.end()) freed.push_back({at, range.end() - at});
  }
  return kept;
}

void Gate::detached(const TicketRef& ticket, std::span<const PoolRange> blocks) {
  std::vector<PoolRange> freed;
  {
    const MutexLock lock(impl_->mutex);
    BlockCount kept;
    if (ticket->free_all) {
      freed.assign(blocks.begin(), blocks.end());
    } else {
      kept = impl_->sort_out(blocks, freed);
      impl_->release_reservation(*ticket, kept);
      if (kept.value > 0) impl_->post(GateEvent::Kind::deferred, ticket->about);
    }
    // What was pinned has left the file: others who wait for these pins need not any more.
    if (ticket->free_all || kept.value > 0) {
      impl_->wake_all_of(impl_->fences.over(ticket->takes));
      impl_->notify();
    }
  }
  if (!freed.empty()) impl_->hooks.free_blocks(freed);
}

void Gate::detached_unasked(std::span<const PoolRange> blocks, InodeNumber inode,
                            std::optional<PinPolicy> policy) {
  std::vector<PoolRange> freed;
  {
    const MutexLock lock(impl_->mutex);
    impl_->repeats.forget(inode);
    if (blocks.empty()) return;
    const PinPolicy word = policy.value_or(impl_->options.pin_policy);
    if (word == PinPolicy::ignore) {
      freed.assign(blocks.begin(), blocks.end());
    } else if (const BlockCount kept = impl_->sort_out(blocks, freed); kept.value > 0) {
      impl_->post(GateEvent::Kind::deferred,
                  {.inode = inode, .length = bytes(kept).value, .policy = word});
    }
  }
  if (!freed.empty()) impl_->hooks.free_blocks(freed);
}

}  // namespace daxfs
