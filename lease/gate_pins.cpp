// Taking pins and giving them back.
#include <cerrno>
#include <utility>

#include "lease/gate_impl.h"

namespace daxfs {
namespace {

// How many pins drop() takes away before it lets others to the gate's lock.
constexpr std::size_t kDropAtOnce = 256;

}  // namespace

HolderId Gate::new_holder() { return HolderId{++impl_->last_holder}; }

Result<std::optional<PinId>> Gate::pin(const TicketRef& ticket, const PinRequest& request) {
  Impl& gate = *impl_;
  const std::lock_guard lock(gate.mutex);
  gate.parked.forget(*ticket);
  if (ticket->cancelled || gate.stopping) return fail(EINTR);
  if (!gate.fences.empty()) {
    const Fences::Fence range{request.inode, covering(request.offset, request.length)};
    if (const auto fence = gate.fences.newest_before(ticket->arrival, range)) {
      if (request.nowait) return fail(EAGAIN);
      gate.parked.park_pin(ticket, *fence);
      return std::nullopt;
    }
  }
  const PinId id = gate.pins.add(request, std::chrono::system_clock::now());
  for (const PoolRange& range : request.blocks) {
    gate.counts.add(range, request.kind, request.requester.process);
    gate.pinned += range.count;
  }
  ++(request.kind == PinKind::long_term ? gate.long_pins : gate.short_pins);
  return id;
}

PinInfo Gate::Impl::release(HolderId holder, PinId id, const PinTable::Pin& pin,
                            std::vector<PoolRange>& freed) {
  unpinned.clear();
  for (const PoolRange& range : pin.blocks()) {
    counts.remove(range, pin.kind(), pin.process(), unpinned);
    pinned -= range.count;
  }
  // In the same hold of the lock: a block that is not pinned must not be seen in limbo, or two
  // might free it.
  for (const PoolRange& piece : unpinned) limbo.release(piece, freed);
  for (const PoolRange& range : pin.blocks()) parked.unpinned(range, counts);
  --(pin.kind() == PinKind::long_term ? long_pins : short_pins);
  const PinInfo info = PinTable::info(holder, id, pin);
  pins.remove(holder, id);
  return info;
}

Result<PinInfo> Gate::unpin(HolderId holder, PinId pin) {
  std::vector<PoolRange> freed;
  PinInfo info;
  {
    const std::lock_guard lock(impl_->mutex);
    const PinTable::Pin* found = impl_->pins.find(holder, pin);
    if (found == nullptr) return fail(ENOENT);
    info = impl_->release(holder, pin, *found, freed);
    impl_->notify();
  }
  if (!freed.empty()) impl_->free_blocks(freed);
  return info;
}

std::vector<PinInfo> Gate::drop(HolderId holder) {
  std::vector<PinInfo> result;
  std::vector<PoolRange> freed;
  bool more = true;
  while (more) {
    {
      const std::lock_guard lock(impl_->mutex);
      const std::vector<PinId> some = impl_->pins.some_of(holder, kDropAtOnce);
      for (const PinId id : some) {
        result.push_back(impl_->release(holder, id, *impl_->pins.find(holder, id), freed));
      }
      more = some.size() == kDropAtOnce;
      if (!more) impl_->pins.forget(holder);
      impl_->notify();
    }
    if (!freed.empty()) impl_->free_blocks(freed);
    freed.clear();
  }
  return result;
}

}  // namespace daxfs
