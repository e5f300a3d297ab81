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
  const std::lock_guard lock(impl_->mutex);
  Result<Verdict> verdict = impl_->judge(ticket, request);
  impl_->notify();
  return verdict;
}

Result<Verdict> Gate::Impl::judge(const TicketRef& ticket, const DetachRequest& request) {
  parked.forget(*ticket);
  release_reservation(*ticket, ticket->limbo_reserved);
  ticket->free_all = false;
  if (ticket->cancelled || stopping) return fail(EINTR);

  const SteadyTime now = std::chrono::steady_clock::now();
  if (!ticket->first_judged) ticket->first_judged = now;
  if (!ticket->shorts_are_long) {
    const SteadyTime limit = after(*ticket->first_judged, options.short_timeout_ms);
    if (now >= limit) {
      ticket->shorts_are_long = true;
    } else if (InTheWay shorts = in_the_way(counts, request, Awaited::short_term);
               shorts.blocks.value > 0) {
      return wait(ticket, request, std::move(shorts.obstacles), limit);
    }
  }

  // From here on every pin in the way counts as long-term.
  InTheWay pinned = in_the_way(counts, request, Awaited::any);
  if (pinned.blocks.value == 0) return Verdict::proceed;

  const Conflict conflict{.long_pinned = pinned.blocks,
                          .limbo_now = limbo.total() + limbo_reserved,
                          .limbo_limit = BlockCount(options.limbo_limit.value >> kBlockShift)};
  const DetachPolicy& policy = policies(options.pin_policy);
  Ruling ruling = policy.judge(conflict, options);
  if (ruling.kind == Ruling::Kind::park) {
    if (ticket->waits_under != &policy) {
      ticket->waits_under = &policy;
      ticket->waits_since = now;
    }
    const SteadyTime limit =
        ruling.timeout_ms == 0 ? kNever : after(ticket->waits_since, ruling.timeout_ms);
    if (now < limit) return wait(ticket, request, std::move(pinned.obstacles), limit);
    ruling = on_timeout(conflict);
  }
  switch (ruling.kind) {
    case Ruling::Kind::to_limbo:
      // The limit must hold for all who go ahead before the first of them has arrived.
      ticket->limbo_reserved = pinned.blocks;
      limbo_reserved += pinned.blocks;
      return Verdict::proceed;
    case Ruling::Kind::free_all:
      ticket->free_all = true;
      return Verdict::proceed;
    case Ruling::Kind::refuse:
    case Ruling::Kind::park:  // a second one, after the timeout, is no answer
      break;
  }
  return fail(ruling.kind == Ruling::Kind::refuse && ruling.error != 0 ? ruling.error : ETXTBSY);
}

Ruling Gate::Impl::on_timeout(const Conflict& conflict) const {
  const PinPolicy then =
      options.on_timeout == OnTimeout::defer ? PinPolicy::defer : PinPolicy::refuse;
  return policies(then).judge(conflict, options);
}

Result<Verdict> Gate::Impl::wait(const TicketRef& ticket, const DetachRequest& request,
                                 Obstacles obstacles, SteadyTime deadline) {
  if (obstacles.pieces.empty()) return fail(EDEADLK);
  const Fences::Fence fence{request.inode, request.range};
  if (ticket->fence != fence) {
    lift_fence(*ticket);
    fences.raise(ticket->arrival, fence);
    ticket->fence = fence;
  }
  parked.park_detach(ticket, std::move(obstacles), deadline);
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
    const std::lock_guard lock(impl_->mutex);
    if (ticket->free_all) {
      freed.assign(blocks.begin(), blocks.end());
    } else {
      impl_->release_reservation(*ticket, impl_->sort_out(blocks, freed));
    }
  }
  if (!freed.empty()) impl_->free_blocks(freed);
}

void Gate::detached_unasked(std::span<const PoolRange> blocks) {
  std::vector<PoolRange> freed;
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->options.pin_policy == PinPolicy::ignore) {
      freed.assign(blocks.begin(), blocks.end());
    } else {
      impl_->sort_out(blocks, freed);
    }
  }
  if (!freed.empty()) impl_->free_blocks(freed);
}

}  // namespace daxfs
