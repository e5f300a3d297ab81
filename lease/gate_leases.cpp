// Layout leases, and breaking them.
#include <cerrno>
#include <utility>

#include "lease/gate_impl.h"

namespace daxfs {
namespace {

LeaseNews news_of(const DetachRequest& request) {
  return {.kind = LeaseNews::Kind::asked,
          .lease = {},
          .range = request.range,
          .reason = request.reason,
          .process = request.requester.process,
          .deadline = std::nullopt};
}

}  // namespace

Result<std::optional<LeaseId>> Gate::lease(const TicketRef& ticket, const LeaseRequest& request) {
  Impl& gate = *impl_;
  const MutexLock lock(gate.mutex);
  gate.begin_try(*ticket, about(request, gate.options.pin_policy), Wish::lease,
                 request.requester.uid);
  if (gate.stopping) return gate.refuse(*ticket, EINTR);
  const FileRange range = covering(request.offset, request.length);
  const Result<Verdict> passed = gate.pass_fences(ticket,
                                                  {.what = Repeats::What::lease,
                                                   .process = request.requester.process,
                                                   .takes = {request.inode, range},
                                                   .holder = request.holder},
                                                  request.nowait);
  if (!passed) return std::unexpected(passed.error());
  if (*passed == Verdict::parked) return std::nullopt;
  if (gate.at_limit(ticket->user, gate.leases.count_of(ticket->user))) {
    return gate.refuse(*ticket, ENOLCK);
  }
  const Result<LeaseId> added = gate.leases.add(request);
  if (!added) return gate.refuse(*ticket, added.error().code);
  gate.note_resumed(*ticket);
  gate.post(GateEvent::Kind::lease, ticket->about);
  return *added;
}

Status Gate::Impl::may_give_up(const LeaseInfo& lease, FileRange keep) const {
  if (options.longterm != LongTerm::lease) return {};
  const auto needs = [&](FileRange range) {
    mutex.assert_held();
    return overlap(range, lease.range()) &&
           !leases.covered_with(lease.holder, lease.inode, range, lease.id, keep);
  };
  return pins.any_long(lease.holder, lease.inode, needs) ? fail(EBUSY) : Status();
}

Status Gate::shrink_lease(HolderId holder, LeaseId id, FileOffset offset, ByteCount length) {
  const MutexLock lock(impl_->mutex);
  const LeaseInfo* lease = impl_->leases.find(holder, id);
  if (lease == nullptr) return fail(ENOENT);
  const FileRange range = covering(offset, length);
  if (range.empty() || range.start < lease->range().start || range.end() > lease->range().end()) {
    return fail(EINVAL);
  }
  if (const Status may = impl_->may_give_up(*lease, range); !may) return may;
  impl_->wake_all_of(impl_->leases.shrink(holder, id, offset, length));
  impl_->post(GateEvent::Kind::lease, about(*lease, impl_->options.pin_policy));
  impl_->notify();
  return {};
}

Status Gate::unlease(HolderId holder, LeaseId id) {
  const MutexLock lock(impl_->mutex);
  const LeaseInfo* lease = impl_->leases.find(holder, id);
  if (lease == nullptr) return fail(ENOENT);
  if (const Status may = impl_->may_give_up(*lease, FileRange()); !may) return may;
  impl_->give_up(LeaseInfo(*lease));
  impl_->notify();
  return {};
}

void Gate::Impl::give_up(const LeaseInfo& lease) {
  post(GateEvent::Kind::unlease, about(lease, options.pin_policy));
  wake_all_of(leases.remove(lease.holder, lease.id));
}

void Gate::Impl::give_up_all(HolderId holder) {
  for (const LeaseInfo& lease : leases.of(holder)) give_up(lease);
  leases.forget(holder);
}

Result<LeaseNews> Gate::next_news(HolderId holder) {
  const MutexLock lock(impl_->mutex);
  const auto news = impl_->leases.next_news(holder);
  if (!news) return fail(EAGAIN);
  return *news;
}

bool Gate::has_news(HolderId holder) const {
  const MutexLock lock(impl_->mutex);
  return impl_->leases.has_news(holder);
}

void Gate::Impl::break_leases(Ticket& ticket, const DetachRequest& request,
                              const std::vector<LeaseInfo>& broken, SteadyTime deadline,
                              Aftermath& aftermath) {
  LeaseNews news = news_of(request);
  if (deadline != kNever) news.deadline = deadline;
  for (const LeaseInfo& lease : broken) {
    if (!leases.begin_break(lease.id, ticket.arrival, deadline)) continue;
    ticket.breaking.push_back(lease.id);
    leases.tell(lease, news);
    aftermath.told.push_back(lease.holder);
    post(GateEvent::Kind::breaks, about(lease, ticket.about.policy));
  }
}

void Gate::Impl::tell_leases(const Ticket& ticket, const DetachRequest& request,
                             const std::vector<LeaseInfo>& told, Aftermath& aftermath) {
  for (const LeaseInfo& lease : told) {
    leases.tell(lease, news_of(request));
    aftermath.told.push_back(lease.holder);
    post(GateEvent::Kind::breaks, about(lease, ticket.about.policy));
  }
}

void Gate::Impl::revoke_leases(const DetachRequest& request, const std::vector<LeaseInfo>& revoked,
                               Aftermath& aftermath) {
  for (const LeaseInfo& lease : revoked) {
    wake_all_of(leases.revoke(lease, news_of(request)));
    aftermath.told.push_back(lease.holder);
    post(GateEvent::Kind::unlease, about(lease, options.pin_policy));
  }
}

void Gate::Impl::end_breaks(Ticket& ticket) {
  for (const LeaseId lease : ticket.breaking) leases.end_break(lease, ticket.arrival);
  ticket.breaking.clear();
}

void Gate::Impl::wake_all_of(const std::vector<Arrival>& requests) {
  for (const Arrival arrival : requests) parked.wake(arrival);
}

}  // namespace daxfs
