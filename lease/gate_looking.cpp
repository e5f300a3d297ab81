// What the gate tells about itself.
#include <algorithm>
#include <cerrno>

#include "lease/gate_impl.h"

namespace daxfs {

Result<std::vector<PoolRange>> Gate::pin_blocks(HolderId holder, PinId pin) const {
  const MutexLock lock(impl_->mutex);
  const PinTable::Pin* found = impl_->pins.find(holder, pin);
  if (found == nullptr) return fail(ENOENT);
  return std::vector<PoolRange>(found->blocks().begin(), found->blocks().end());
}

std::optional<PinInfo> Gate::find_pin(HolderId holder, PinId pin) const {
  const MutexLock lock(impl_->mutex);
  const PinTable::Pin* found = impl_->pins.find(holder, pin);
  if (found == nullptr) return std::nullopt;
  return impl_->leased(PinTable::info(holder, pin, *found));
}

std::vector<PinInfo> Gate::pins_after(PinId after, std::size_t limit) const {
  const MutexLock lock(impl_->mutex);
  std::vector<PinInfo> pins = impl_->pins.after(after, limit);
  for (PinInfo& pin : pins) pin = impl_->leased(pin);
  return pins;
}

std::optional<PinId> Gate::visit_pins(
    PinId after, std::size_t limit,
    absl::FunctionRef<void(const PinInfo&, std::span<const PoolRange>)> visit) const {
  const MutexLock lock(impl_->mutex);
  const std::vector<PinInfo> some = impl_->pins.after(after, limit);
  for (const PinInfo& info : some) {
    const PinTable::Pin* pin = impl_->pins.find(info.holder, info.id);
    if (pin == nullptr) continue;
    PinInfo known = info;
    known.left = impl_->pins.has_left(info.holder);
    visit(known, pin->blocks());
  }
  return some.empty() ? std::nullopt : std::optional(some.back().id);
}

PinInfo Gate::Impl::leased(PinInfo pin) const {
  pin.left = pins.has_left(pin.holder);
  pin.lease = leases.over(pin.holder, pin.inode, covering(pin.offset, pin.length));
  return pin;
}

std::vector<Gate::LeaseState> Gate::leases_after(LeaseId after, std::size_t limit) const {
  std::vector<LeaseState> result;
  const MutexLock lock(impl_->mutex);
  for (const LeaseInfo& lease : impl_->leases.after(after, limit)) {
    result.push_back({lease, impl_->leases.breaking(lease.id)});
  }
  return result;
}

std::vector<Gate::WaitingInfo> Gate::waiting_after(Arrival after, std::size_t limit) const {
  std::vector<WaitingInfo> result;
  const MutexLock lock(impl_->mutex);
  for (const Ticket* ticket : impl_->parked.after(after, limit)) {
    result.push_back({.arrival = ticket->arrival,
                      .wish = ticket->wish,
                      .about = ticket->about,
                      .uid = ticket->user,
                      .since = ticket->waits_since,
                      .deadline = std::min(ticket->deadline, ticket->interrupt_at)});
  }
  return result;
}

std::vector<Gate::LimboInfo> Gate::limbo_from(PoolBlock from, std::size_t limit) const {
  std::vector<LimboInfo> result;
  const MutexLock lock(impl_->mutex);
  Limbo::Piece piece;
  for (PoolBlock at = from; result.size() < limit && impl_->limbo.next(at, piece);
       at = piece.range.end()) {
    impl_->counts.for_each(piece.range, [&](PoolRange range, PinCounts pins) {
      if (result.size() < limit) result.push_back({range, pins, piece.since});
    });
  }
  return result;
}

void Gate::counts(PoolRange range, const std::function<void(PoolRange, PinCounts)>& visit) const {
  const MutexLock lock(impl_->mutex);
  impl_->counts.for_each(range, visit);
}

GateCounts Gate::totals() const {
  const MutexLock lock(impl_->mutex);
  return {.long_pins = impl_->long_pins,
          .short_pins = impl_->short_pins,
          .pinned_bytes = bytes(impl_->pinned),
          .limbo = impl_->limbo.total(),
          .leases = impl_->leases.size(),
          .waiting = impl_->parked.waiting()};
}

WaitTimes Gate::wait_times() const {
  const MutexLock lock(impl_->mutex);
  return impl_->waits;
}

GateEventCounts Gate::event_counts() const {
  const MutexLock lock(impl_->mutex);
  return impl_->happened;
}

}  // namespace daxfs
