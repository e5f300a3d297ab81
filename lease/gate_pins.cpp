// Taking pins and giving them back.
#include <cerrno>
#include <utility>

#include "base/require.h"
#include "lease/gate_impl.h"

namespace daxfs {
namespace {

// How many pins drop() takes away before it lets others to the gate's lock.
constexpr std::size_t kDropAtOnce = 256;

}  // namespace

HolderId Gate::new_holder() { return HolderId{++impl_->last_holder}; }

Result<Verdict> Gate::Impl::pass_fences(const TicketRef& ticket, const Repeats::Key& asked,
                                        bool nowait) {
  take_place(*ticket, asked);
  if (fences.empty()) return Verdict::proceed;
  auto fence = fences.newest_before(ticket->arrival, asked.takes);
  while (fence && repeats.give_up(*fence, asked.process)) {
    fence = fences.newest_before(ticket->arrival, asked.takes);
  }
  if (!fence) return Verdict::proceed;
  if (nowait) return refuse(*ticket, EAGAIN);
  if (const Status may = may_wait(*ticket); !may) {
    if (may == fail(EINTR)) return interrupt(*ticket, asked);
    return refuse(*ticket, may.error().code);
  }
  note_waiting(*ticket);
  parked.park_pin(ticket, *fence, ticket->interrupt_at);
  notify();  // it may be the first that is to be woken at a time
  return Verdict::parked;
}

Result<Verdict> Gate::Impl::admit(const TicketRef& ticket, const PinRequest& request) {
  begin_try(*ticket, about(request, options.pin_policy), Wish::pin, request.requester.uid);
  if (stopping) return refuse(*ticket, EINTR);
  const FileRange range = covering(request.offset, request.length);
  if (request.kind == PinKind::long_term) {
    if (options.longterm == LongTerm::forbid) return refuse(*ticket, EOPNOTSUPP);
    if (options.longterm == LongTerm::lease &&
        !leases.covered(request.holder, request.inode, range)) {
      return refuse(*ticket, EPERM);
    }
  }
  const auto found = pinned_by.find(request.requester.uid);
  const Pinned mine = found == pinned_by.end() ? Pinned{} : found->second;
  if (at_limit(request.requester.uid, mine.pins)) return refuse(*ticket, ENOMEM);
  if (options.pin_limit.value != 0) {
    const BlockCount limit(options.pin_limit.value >> kBlockShift);
    if (mine.blocks > limit || range.count > limit - mine.blocks) return refuse(*ticket, ENOMEM);
  }
  const FileRange all{FileBlock(0), BlockCount(UINT64_MAX)};
  return pass_fences(ticket,
                     {.what = Repeats::What::pin,
                      .process = request.requester.process,
                      .takes = {request.inode, request.behind_all ? all : range},
                      .holder = request.holder},
                     request.nowait);
}

Result<Verdict> Gate::admit(const TicketRef& ticket, const PinRequest& request) {
  const MutexLock lock(impl_->mutex);
  return impl_->admit(ticket, request);
}

PinInfo Gate::Impl::new_pin(const PinRequest& request) {
  return {.id = pins.next_id(),
          .holder = request.holder,
          .inode = request.inode,
          .offset = request.offset,
          .length = request.length,
          .kind = request.kind,
          .write = request.write,
          .requester = request.requester,
          .since = std::chrono::system_clock::now(),
          .record = 0,
          .lease = {}};
}

void Gate::Impl::count_in(const PinInfo& pin, std::span<const PoolRange> blocks, pid_t process) {
  BlockCount all;
  for (const PoolRange& range : blocks) {
    counts.add(range, pin.kind, process);
    all += range.count;
  }
  pinned += all;
  Pinned& user = pinned_by[pin.requester.uid];
  user.blocks += all;
  ++user.pins;
  ++(pin.kind == PinKind::long_term ? long_pins : short_pins);
  post(GateEvent::Kind::pin, about(pin, options.pin_policy));
}

Result<std::optional<PinId>> Gate::pin(const TicketRef& ticket, const PinRequest& request) {
  Impl& gate = *impl_;
  const MutexLock lock(gate.mutex);
  const Result<Verdict> admitted = gate.admit(ticket, request);
  if (!admitted) return std::unexpected(admitted.error());
  if (*admitted == Verdict::parked) return std::nullopt;
  gate.note_resumed(*ticket);
  const PinInfo pin = gate.new_pin(request);
  gate.pins.add(pin, request.blocks);
  if (request.recorded) gate.pins.hide(request.holder, pin.id);
  gate.count_in(pin, request.blocks, request.requester.process);
  return pin.id;
}

PinId Gate::pin_copies(const PinRequest& request) {
  Impl& gate = *impl_;
  const MutexLock lock(gate.mutex);
  const PinInfo pin = gate.new_pin(request);
  gate.pins.add(pin, request.blocks);
  gate.pins.set_left(request.holder);
  gate.count_in(pin, request.blocks, 0);
  return pin.id;
}

Result<PinId> Gate::pin_apart(const PinRequest& request, bool first) {
  Impl& gate = *impl_;
  const MutexLock lock(gate.mutex);
  const auto mine = gate.pinned_by.find(request.requester.uid);
  if (mine != gate.pinned_by.end() && gate.at_limit(request.requester.uid, mine->second.pins))
    return fail(ENOMEM);
  const PinInfo pin = gate.new_pin(request);
  gate.pins.add(pin, request.blocks);
  gate.pins.hide(request.holder, pin.id);
  gate.count_in(pin, request.blocks, request.requester.process);
  if (first) {
    for (const PoolRange& range : request.blocks) gate.limbo.add(range, pin.since);
  }
  return pin.id;
}

void Gate::restore_pin(const PinInfo& pin, std::span<const PoolRange> blocks) {
  const MutexLock lock(impl_->mutex);
  DAXFS_REQUIRE(pin.id.value <= impl_->hooks.last_pin.value,
                "pin {} is restored, and new ones are numbered from {}", pin.id.value,
                impl_->hooks.last_pin.value + 1);
  impl_->pins.add(pin, blocks);
  impl_->count_in(pin, blocks, pin.requester.process);
}

void Gate::record_pin(HolderId holder, PinId pin, std::uint64_t record) {
  const MutexLock lock(impl_->mutex);
  impl_->pins.show(holder, pin, record);
}

void Gate::undo_pin(HolderId holder, PinId pin) {
  Impl::Aftermath aftermath;
  {
    const MutexLock lock(impl_->mutex);
    impl_->end_pin(holder, pin, aftermath);
  }
  impl_->finish(aftermath);
}

void Gate::leave(HolderId holder) {
  Impl& gate = *impl_;
  const MutexLock lock(gate.mutex);
  std::vector<PoolRange> none;
  gate.pins.leave(holder, [&](const PinTable::Pin& pin) {
    gate.mutex.assert_held();
    for (const PoolRange& range : pin.blocks()) {
      gate.counts.add(range, pin.kind(), 0);
      gate.counts.remove(range, pin.kind(), pin.process(), none);
    }
  });
  DAXFS_REQUIRE(none.empty(), "holder {} leaves: {} of its pinned ranges were not counted",
                holder.value, none.size());
  gate.give_up_all(holder);
  gate.notify();
}

std::vector<PinId> Gate::pins_of(HolderId holder) const {
  const MutexLock lock(impl_->mutex);
  return impl_->pins.pins_of(holder);
}

Status Gate::move_pin(HolderId from, PinId pin, HolderId to) {
  const MutexLock lock(impl_->mutex);
  if (impl_->pins.has_left(from)) return fail(ENOENT);
  return impl_->pins.move(from, pin, to) ? Status() : fail(ENOENT);
}

PinInfo Gate::Impl::release(HolderId holder, PinId id, const PinTable::Pin& pin,
                            std::vector<PoolRange>& freed) {
  const PinInfo info = PinTable::info(holder, id, pin);
  post(GateEvent::Kind::unpin, about(info, options.pin_policy));
  unpinned.clear();
  BlockCount all;
  for (const PoolRange& range : pin.blocks()) {
    counts.remove(range, pin.kind(), counted_process(holder, pin), unpinned);
    all += range.count;
  }
  std::uint64_t& of_its_kind = pin.kind() == PinKind::long_term ? long_pins : short_pins;
  const auto user = pinned_by.find(info.requester.uid);
  DAXFS_REQUIRE(of_its_kind > 0 && pinned >= all && user != pinned_by.end() &&
                    user->second.blocks >= all && user->second.pins > 0,
                "pin {} of holder {}, user {}: it was not counted", id.value, holder.value,
                info.requester.uid);
  --of_its_kind;
  pinned -= all;
  user->second.blocks -= all;
  if (--user->second.pins == 0) pinned_by.erase(user);
  // In the same hold of the lock: a block that is not pinned must not be seen in limbo, or two
  // might free it.
  const std::size_t before = freed.size();
  for (const PoolRange& piece : unpinned) limbo.release(piece, freed);
  for (std::size_t i = before; i < freed.size(); ++i) {
    post(GateEvent::Kind::freed, {.inode = {},
                                  .offset = offset_of(freed[i].start).value,
                                  .length = bytes(freed[i].count).value,
                                  .policy = options.pin_policy,
                                  .process = info.requester.process});
  }
  for (const PoolRange& range : pin.blocks()) parked.unpinned(range, counts);
  pins.remove(holder, id);
  return info;
}

PinInfo Gate::Impl::end_pin(HolderId holder, PinId pin, Aftermath& aftermath) {
  const PinInfo info = release(holder, pin, pins.find_hidden(holder, pin), aftermath.freed);
  note_leaving(aftermath);
  notify();
  return info;
}

// In two holds of the lock where the pin has a record: the record goes first, and only then can its
// blocks become somebody else's. In between the pin is hidden: nobody can give it back twice.
Result<PinInfo> Gate::unpin(HolderId holder, PinId pin) {
  Impl::Aftermath aftermath;
  const Result<PinInfo> ended = [&]() -> Result<PinInfo> {
    const MutexLock lock(impl_->mutex);
    const PinTable::Pin* found = impl_->pins.find(holder, pin);
    if (found == nullptr) return fail(ENOENT);
    if (const std::uint64_t record = found->record(); record != 0) {
      impl_->pins.hide(holder, pin);
      const MutexUnlock unlocked(impl_->mutex);
      impl_->hooks.forget_records({&record, 1});
    }
    return impl_->end_pin(holder, pin, aftermath);
  }();
  impl_->finish(aftermath);
  return ended;
}

bool Gate::Impl::drop_some(HolderId holder, std::vector<PinInfo>& dropped, Aftermath& aftermath) {
  const std::vector<PinId> some = pins.some_of(holder, kDropAtOnce);
  std::vector<std::uint64_t> records;
  for (const PinId id : some) {
    const std::uint64_t record = pins.hide(holder, id);
    if (record != 0) records.push_back(record);
  }
  if (!records.empty()) {
    const MutexUnlock unlocked(mutex);
    hooks.forget_records(records);
  }
  for (const PinId id : some) {
    dropped.push_back(release(holder, id, pins.find_hidden(holder, id), aftermath.freed));
  }
  note_leaving(aftermath);
  if (some.size() == kDropAtOnce) return true;
  pins.forget(holder);
  give_up_all(holder);
  return false;
}

std::vector<PinInfo> Gate::drop(HolderId holder) {
  std::vector<PinInfo> dropped;
  bool more = true;
  while (more) {
    Impl::Aftermath aftermath;
    {
      const MutexLock lock(impl_->mutex);
      more = impl_->drop_some(holder, dropped, aftermath);
      impl_->notify();
    }
    impl_->finish(aftermath);
  }
  return dropped;
}

}  // namespace daxfs
