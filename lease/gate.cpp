// Requests from begin() to end(), and the thread that retries them.
#include "lease/gate.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/background_thread.h"
#include "base/require.h"
#include "lease/gate_impl.h"

namespace daxfs {

Gate::Gate(const GateOptions& options, GateHooks hooks)
    : impl_(std::make_unique<Impl>(options, std::move(hooks))) {
  impl_->thread = background_thread("daxfs-gate", [impl = impl_.get()] { impl->run(); });
}

Gate::~Gate() { stop(); }

void Gate::stop() {
  std::call_once(impl_->stopped, [this] {
    {
      const MutexLock lock(impl_->mutex);
      impl_->stopping = true;
      impl_->parked.wake_all();
      impl_->attention.notify_one();
    }
    impl_->thread.join();
  });
}

GateOptions Gate::options() const {
  const MutexLock lock(impl_->mutex);
  return impl_->options;
}

void Gate::set_options(const GateOptions& options, pid_t process) {
  const MutexLock lock(impl_->mutex);
  impl_->options = options;
  GateEvent about;
  about.policy = options.pin_policy;
  about.process = process;
  impl_->post(GateEvent::Kind::policy, about);
  impl_->parked.wake_all();  // All, pins too: longterm=, pin_limit= and user_limit= concern them.
  impl_->notify();
}

void Gate::rejudge(InodeNumber inode) {
  const MutexLock lock(impl_->mutex);
  impl_->wake_all_of(impl_->fences.in(inode));
  impl_->notify();
}

void Gate::limit_waits(std::chrono::milliseconds longest) {
  const MutexLock lock(impl_->mutex);
  impl_->longest_wait = longest;
}

TicketRef Gate::begin(Continuation retry) {
  return std::make_shared<Ticket>(++impl_->last_arrival, std::move(retry));
}

void Gate::end(const TicketRef& ticket) {
  Continuation retry;  // destroyed without the lock: who knows what it holds
  std::shared_ptr<const void> kept;
  const MutexLock lock(impl_->mutex);
  impl_->parked.forget(*ticket);
  impl_->lift_fence(*ticket);
  impl_->end_breaks(*ticket);
  impl_->release_reservation(*ticket, ticket->limbo_reserved);
  ticket->state = Ticket::State::ended;
  retry.swap(ticket->retry);
  kept.swap(ticket->kept);
  impl_->notify();
}

void Gate::keep(const TicketRef& ticket, std::shared_ptr<const void> what) {
  const MutexLock lock(impl_->mutex);
  ticket->kept.swap(what);  // a parameter: it ends after the lock
}

void Gate::cancel(const TicketRef& ticket) {
  const MutexLock lock(impl_->mutex);
  ticket->cancelled = true;
  impl_->parked.wake(*ticket);
  impl_->notify();
}

void Gate::Impl::begin_try(Ticket& ticket, const GateEvent& about, Wish wish, uid_t user) {
  ticket.about = about;
  ticket.wish = wish;
  parked.forget(ticket);
  ticket.user = user;
}

SteadyTime Gate::Impl::next_deadline() const {
  return std::min(parked.next_deadline(), repeats.next_look().value_or(kNever));
}

void Gate::Impl::notify() {
  if (parked.any_ready() || next_deadline() < sleeps_until) attention.notify_one();
}

void Gate::Impl::finish(const Aftermath& aftermath) {
  if (!aftermath.freed.empty()) {
    hooks.free_blocks(aftermath.freed);
    const MutexLock lock(mutex);
    const std::size_t gone = std::erase(leaving, &aftermath.freed);
    DAXFS_REQUIRE(gone == 1, "{} ranges that left limbo were noted {} times",
                  aftermath.freed.size(), gone);
  }
  if (!hooks.tell_holder) return;
  for (const HolderId holder : aftermath.told) hooks.tell_holder(holder);
}

void Gate::Impl::note_leaving(const Aftermath& aftermath) {
  if (!aftermath.freed.empty()) leaving.push_back(&aftermath.freed);
}

void Gate::Impl::post(GateEvent::Kind kind, GateEvent about) const {
  ++happened[static_cast<std::size_t>(kind)];
  if (hooks.events == nullptr || !hooks.events->wanted()) return;
  about.kind = kind;
  hooks.events->post(about);
}

void Gate::Impl::count_wait(const Ticket& ticket) const {
  if (!ticket.has_waited) return;
  const auto waited =
      std::chrono::duration_cast<WaitTimes::Duration>(hooks.now() - ticket.waits_since);
  waits.add(ticket.about.policy, waited);
}

std::unexpected<Errno> Gate::Impl::refuse(Ticket& ticket, int error) const {
  count_wait(ticket);
  if (error != EINTR) {
    post(GateEvent::Kind::refused, ticket.about);
  } else if (ticket.has_waited) {
    post(GateEvent::Kind::interrupted, ticket.about);
  }
  return fail(error);
}

bool Gate::Impl::at_limit(uid_t user, std::uint64_t count) const {
  return options.user_limit != 0 && count >= options.user_limit && hooks.is_limited &&
         hooks.is_limited(user);
}

Status Gate::Impl::may_wait(const Ticket& ticket) const {
  if (ticket.cancelled) return fail(EINTR);
  if (ticket.interrupt_at != kNever && hooks.now() >= ticket.interrupt_at) return fail(EINTR);
  if (!ticket.has_waited && at_limit(ticket.user, parked.waiting_of(ticket.user))) {
    return fail(EAGAIN);
  }
  return {};
}

void Gate::Impl::note_waiting(Ticket& ticket) const {
  if (std::exchange(ticket.has_waited, true)) return;
  ticket.waits_since = hooks.now();
  if (longest_wait && ticket.interrupt_at == kNever) {
    ticket.interrupt_at = hooks.now() + *longest_wait;
  }
  post(GateEvent::Kind::waiting, ticket.about);
}

void Gate::Impl::note_resumed(Ticket& ticket) const {
  count_wait(ticket);
  if (ticket.has_waited) post(GateEvent::Kind::resumed, ticket.about);
  ticket.has_waited = false;
}

void Gate::Impl::take_place(Ticket& ticket, const Repeats::Key& key) {
  if (std::exchange(ticket.placed, true) || repeats.empty()) return;
  const auto place = repeats.take(key, hooks.now());
  if (!place) return;
  ticket.arrival = place->arrival;
  ticket.fence = place->fence;
  ticket.progress = place->progress;
}

std::unexpected<Errno> Gate::Impl::interrupt(Ticket& ticket, const Repeats::Key& key) {
  const Repeats::Place place{ticket.arrival, ticket.fence, ticket.progress};
  if (repeats.save(key, place, hooks.now())) ticket.fence.reset();
  return refuse(ticket, EINTR);
}

void Gate::Impl::lift_fence(Ticket& ticket) {
  if (!ticket.fence) return;
  lift_fence(ticket.arrival, *ticket.fence);
  ticket.fence.reset();
}

void Gate::Impl::lift_fence(Arrival arrival, const Fences::Fence& fence) {
  fences.lift(arrival, fence);
  parked.wake_behind(arrival);
  notify();
}

// Reading /proc for each of many would keep others from the gate.
void Gate::Impl::look_at_left_fences() {
  std::vector<Repeats::Left> left = repeats.to_look_at(hooks.now());
  if (left.empty()) return;
  {
    const MutexUnlock unlocked(mutex);
    std::erase_if(left, [&](const Repeats::Left& one) {
      return !hooks.processes.has_ended || !hooks.processes.has_ended(one.process);
    });
  }
  for (const Repeats::Left& one : left) repeats.lift_left(one);
}

void Gate::Impl::run() {
  const MutexLock lock(mutex);
  while (true) {
    sleeps_until = SteadyTime::min();  // awake: nobody needs to notify
    parked.wake_due(hooks.now());
    look_at_left_fences();
    if (const TicketRef ticket = parked.take_ready()) {
      retry(ticket);
      continue;
    }
    if (stopping) return;
    sleeps_until = next_deadline();
    if (sleeps_until == kNever) {
      attention.wait(mutex);
    } else {
      attention.wait_until(mutex, sleeps_until);
    }
  }
}

void Gate::Impl::retry(const TicketRef& ticket) {
  // The continuation usually ends its own request, which would destroy it while it runs.
  Continuation continuation = std::move(ticket->retry);
  {
    const MutexUnlock unlocked(mutex);
    continuation();
  }
  if (ticket->state != Ticket::State::ended) {
    ticket->retry = std::move(continuation);
    return;
  }
  const MutexUnlock unlocked(mutex);
  continuation = nullptr;
}

}  // namespace daxfs
