// Judging a request to take blocks out of a file, and where the blocks go.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

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

struct PinsInTheWay {
  BlockCount blocks;    // with awaited pins, whoever has them
  Obstacles obstacles;  // with awaited pins of others
};

PinsInTheWay in_the_way(const PinCountMap& counts, const DetachRequest& request, Awaited awaited) {
  PinsInTheWay result;
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

// A detach while it is judged: what was asked for, and what is in its way.
struct Gate::Impl::Judging {
  const TicketRef& ticket;
  const DetachRequest& request;
  const SteadyTime now;
  const LeaseTable::InTheWay leased;
  Aftermath& aftermath;
  PinsInTheWay pinned{};
  Conflict conflict{};
};

Result<Verdict> Gate::Impl::judge(const TicketRef& ticket, const DetachRequest& request,
                                  Aftermath& aftermath) {
  const PinPolicy policy = request.policy.value_or(options.pin_policy);
  forget_last_try(*ticket, request, policy);
  if (stopping) return refuse(*ticket, EINTR);
  take_place(*ticket, identity(request));

  Judging judging{.ticket = ticket,
                  .request = request,
                  .now = hooks.now(),
                  .leased = leases.in_the_way(request.inode, request.range, request.holder,
                                              request.requester.process),
                  .aftermath = aftermath};
  if (judging.leased.exclusive && policy != PinPolicy::ignore) return refuse(*ticket, ETXTBSY);
  if (auto answer = await_short_pins(judging)) return *answer;

  // From here on every pin in the way counts as long-term.
  judging.pinned = in_the_way(counts, request, Awaited::any);
  if (judging.pinned.blocks.value == 0 && judging.leased.leases.empty()) {
    note_resumed(*ticket);
    return Verdict::proceed;
  }
  judging.conflict = {.long_pinned = judging.pinned.blocks,
                      .leases = judging.leased.leases.size(),
                      .limbo_now = limbo.total() + limbo_reserved,
                      .limbo_limit = BlockCount(options.limbo_limit.value >> kBlockShift)};
  const Ruling ruling = rule(policy, judging.conflict, options);
  if (ruling.kind != Ruling::Kind::park) return obey(judging, ruling);
  if (auto answer = await(judging, policy, ruling)) return *answer;
  return give_up_waiting(judging, ruling);
}

void Gate::Impl::forget_last_try(Ticket& ticket, const DetachRequest& request, PinPolicy policy) {
  begin_try(ticket, about(request, policy), wish_of(request.reason), request.requester.uid);
  ticket.takes = {request.inode, request.range};
  release_reservation(ticket, ticket.limbo_reserved);
  ticket.free_all = false;
}

std::optional<Result<Verdict>> Gate::Impl::await_short_pins(const Judging& judging) {
  Progress& progress = judging.ticket->progress;
  if (!progress.first_judged) progress.first_judged = judging.now;
  if (progress.shorts_are_long) return std::nullopt;
  const SteadyTime limit = after(*progress.first_judged, options.short_timeout_ms);
  if (judging.now >= limit) {
    progress.shorts_are_long = true;
    return std::nullopt;
  }
  PinsInTheWay shorts = in_the_way(counts, judging.request, Awaited::short_term);
  if (shorts.blocks.value == 0) return std::nullopt;
  end_breaks(*judging.ticket);
  return wait(judging.ticket, judging.request, std::move(shorts.obstacles), limit);
}

std::optional<Result<Verdict>> Gate::Impl::await(Judging& judging, PinPolicy policy,
                                                 const Ruling& ruling) {
  Ticket& ticket = *judging.ticket;
  Progress& progress = ticket.progress;
  if (progress.waits_under != policy) {
    progress.waits_under = policy;
    progress.under_it_since = judging.now;
    progress.latest = hooks.latest ? hooks.latest(judging.request, judging.now) : kNever;
  }
  const SteadyTime limit =
      ruling.timeout_ms == 0 ? kNever : after(progress.under_it_since, ruling.timeout_ms);
  if (judging.now >= limit) return std::nullopt;
  if (judging.now >= progress.latest) {
    post(GateEvent::Kind::timeout, ticket.about);
    return refuse(ticket, ETXTBSY);
  }
  const SteadyTime until = std::min(limit, progress.latest);
  Obstacles& obstacles = judging.pinned.obstacles;
  obstacles.leases = ruling.breaks && judging.leased.foreign;
  // Where all that is in the way is the process's own, wait() refuses, and nobody is told; nor for
  // a request that has been interrupted, or may not wait.
  if (ruling.breaks && !obstacles.none() && may_wait(ticket)) {
    break_leases(ticket, judging.request, judging.leased.leases, until, judging.aftermath);
  } else {
    end_breaks(ticket);
  }
  return wait(judging.ticket, judging.request, std::move(obstacles), until);
}

Result<Verdict> Gate::Impl::give_up_waiting(const Judging& judging, const Ruling& waited) {
  Ticket& ticket = *judging.ticket;
  post(GateEvent::Kind::timeout, ticket.about);
  const PinPolicy then =
      options.on_timeout == OnTimeout::defer ? PinPolicy::defer : PinPolicy::refuse;
  const Ruling ruling = rule(then, judging.conflict, options);
  if (!waited.breaks || ruling.kind != Ruling::Kind::proceed) return obey(judging, ruling);
  revoke_leases(judging.request, judging.leased.leases, judging.aftermath);
  note_resumed(ticket);
  return reserve_limbo(ticket, judging.pinned.blocks);
}

Result<Verdict> Gate::Impl::obey(const Judging& judging, const Ruling& ruling) {
  Ticket& ticket = *judging.ticket;
  const bool goes_ahead =
      ruling.kind == Ruling::Kind::proceed || ruling.kind == Ruling::Kind::free_all;
  if (!goes_ahead) return refuse(ticket, ruling.error);
  tell_leases(ticket, judging.request, judging.leased.leases, judging.aftermath);
  note_resumed(ticket);
  if (ruling.kind == Ruling::Kind::proceed) return reserve_limbo(ticket, judging.pinned.blocks);
  ticket.free_all = true;
  return Verdict::proceed;
}

// The limit must hold for all requests that go ahead before the first of them has arrived.
Verdict Gate::Impl::reserve_limbo(Ticket& ticket, BlockCount count) {
  ticket.limbo_reserved = count;
  limbo_reserved += count;
  return Verdict::proceed;
}

Result<Verdict> Gate::Impl::wait(const TicketRef& ticket, const DetachRequest& request,
                                 Obstacles obstacles, SteadyTime deadline) {
  if (obstacles.none()) return refuse(*ticket, EDEADLK);
  if (request.longest.count() > 0 && ticket->interrupt_at == kNever) {
    const auto longest = longest_wait ? std::min(*longest_wait, request.longest) : request.longest;
    ticket->interrupt_at = hooks.now() + longest;
  }
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
    // What was pinned has left the file: other requests need not wait for these pins any more.
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
