// The gate's inside. The public functions are spread over gate.cpp (requests and the thread),
// gate_detach.cpp (judging and detaching), gate_pins.cpp (pinning), gate_leases.cpp (leases and
// breaks), gate_looking.cpp (reports) and gate_audit.cpp (checks for a scrub).
#pragma once

#include <absl/container/flat_hash_map.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "lease/fences.h"
#include "lease/gate.h"
#include "lease/lease_table.h"
#include "lease/limbo.h"
#include "lease/parked_requests.h"
#include "lease/pin_counts.h"
#include "lease/pin_table.h"
#include "lease/repeats.h"
#include "lease/ticket.h"

namespace daxfs {

// What an event says of a request, a pin or a lease.
template <class Subject>
GateEvent about(const Subject& subject, PinPolicy policy) {
  return {.inode = subject.inode,
          .offset = subject.offset.value,
          .length = subject.length.value,
          .policy = policy,
          .process = subject.requester.process};
}

struct Gate::Impl {
  Impl(const GateOptions& gate_options, GateHooks gate_hooks)
      : hooks(std::move(gate_hooks)),
        options(gate_options),
        pins(hooks.last_pin),
        repeats([this](Arrival arrival, const Fences::Fence& fence) { lift_fence(arrival, fence); },
                hooks.has_ended) {}

  const GateHooks hooks;
  std::atomic<Arrival> last_arrival = 0;
  std::atomic<std::uint64_t> last_holder = 0;

  mutable std::mutex mutex;  // protects everything below, and every Ticket
  GateOptions options;
  PinTable pins;
  PinCountMap counts;
  Limbo limbo;
  // Blocks that were taken out of limbo and are not in the free space yet: whoever takes them there
  // has them in an Aftermath.
  std::vector<const std::vector<PoolRange>*> leaving;
  LeaseTable leases;
  Fences fences;
  ParkedRequests parked;
  Repeats repeats;
  std::optional<std::chrono::milliseconds> longest_wait;
  BlockCount limbo_reserved;  // for detaches that may go ahead and have not done so yet
  std::uint64_t long_pins = 0;
  std::uint64_t short_pins = 0;
  BlockCount pinned;
  struct Pinned {
    BlockCount blocks;
    std::uint64_t pins = 0;
  };
  absl::flat_hash_map<uid_t, Pinned> pinned_by;  // only users who have pins
  mutable GateEventCounts happened{};
  bool stopping = false;
  std::vector<PoolRange> unpinned;  // scratch of release()

  // The thread that runs continuations, and until when it means to sleep.
  std::condition_variable attention;
  SteadyTime sleeps_until = kNever;
  std::once_flag stopped;
  std::thread thread;

  // What is to be done once the lock is released: see finish().
  struct Aftermath {
    std::vector<PoolRange> freed;
    std::vector<HolderId> told;
  };
  void finish(const Aftermath& aftermath);
  // With the lock held, in the hold in which they left limbo.
  void note_leaving(const Aftermath& aftermath);

  // --- gate.cpp; all but run() with the lock held ---
  void run();
  void retry(std::unique_lock<std::mutex>& lock, const TicketRef& ticket);
  // When the thread has something to do, if nothing happens before.
  SteadyTime next_deadline() const;
  // Wakes the thread if there is something to do earlier than it believes.
  void notify();
  void lift_fence(Ticket& ticket);
  void lift_fence(Arrival arrival, const Fences::Fence& fence);
  void post(GateEvent::Kind kind, GateEvent about) const;
  // Whether one more than `count` would be too many for this user.
  bool at_limit(uid_t user, std::uint64_t count) const;
  // Whether a request that would have to wait may. EINTR: it has been interrupted, or has waited
  // for as long as the kernel lets it; EAGAIN: its user has as many as may be (one that has waited
  // goes on).
  Status may_wait(const Ticket& ticket) const;
  void note_waiting(Ticket& ticket) const;
  void note_resumed(Ticket& ticket) const;
  // Before a request is judged for the first time: one that repeats another takes its place.
  void take_place(Ticket& ticket, const Repeats::Key& key);
  // Of a request that is about to be answered.
  std::unexpected<Errno> refuse(Ticket& ticket, int error) const;
  // With EINTR, of one that would have had to wait: it may be repeated, and its place is kept.
  std::unexpected<Errno> interrupt(Ticket& ticket, const Repeats::Key& key);

  // --- gate_detach.cpp; with the lock held ---
  Result<Verdict> judge(const TicketRef& ticket, const DetachRequest& request,
                        Aftermath& aftermath);
  Result<Verdict> wait(const TicketRef& ticket, const DetachRequest& request, Obstacles obstacles,
                       SteadyTime deadline);
  Ruling on_timeout(const Conflict& conflict) const;
  Verdict reserve_limbo(Ticket& ticket, BlockCount count);
  void release_reservation(Ticket& ticket, BlockCount at_most);
  // Puts what is pinned into limbo (returning how much that is), the rest into `freed`.
  BlockCount sort_out(std::span<const PoolRange> blocks, std::vector<PoolRange>& freed);

  // --- gate_pins.cpp; with the lock held ---
  Result<Verdict> admit(const TicketRef& ticket, const PinRequest& request);
  // Parks what came later than a fence over the range behind it; EAGAIN if it does not want to
  // wait.
  Result<Verdict> pass_fences(const TicketRef& ticket, const Repeats::Key& asked, bool nowait);
  void count_in(const PinInfo& pin, std::span<const PoolRange> blocks);
  // Undoes a pin. Blocks that leave limbo by that are appended to `freed`.
  PinInfo release(HolderId holder, PinId id, const PinTable::Pin& pin,
                  std::vector<PoolRange>& freed);
  // Whose pin counts as, for who would wait for pins of its own alone.
  pid_t counted_process(HolderId holder, const PinTable::Pin& pin) const {
    return pins.has_left(holder) ? 0 : pin.process();
  }
  // The holder has no lease any more, and no news of any.
  void give_up_all(HolderId holder);
  // The last step of a pin; the lock is let go.
  PinInfo end_pin(std::unique_lock<std::mutex>& lock, HolderId holder, PinId pin);

  // --- gate_looking.cpp; with the lock held ---
  PinInfo leased(PinInfo pin) const;

  // --- gate_leases.cpp; with the lock held ---
  // Breaks the leases for a request that waits until `deadline`, each once.
  void break_leases(Ticket& ticket, const DetachRequest& request,
                    const std::vector<LeaseInfo>& broken, SteadyTime deadline,
                    Aftermath& aftermath);
  // Tells the holders what has been decided.
  void tell_leases(const Ticket& ticket, const DetachRequest& request,
                   const std::vector<LeaseInfo>& told, Aftermath& aftermath);
  void revoke_leases(const DetachRequest& request, const std::vector<LeaseInfo>& revoked,
                     Aftermath& aftermath);
  void give_up(const LeaseInfo& lease);
  // The request waits for no lease any more.
  void end_breaks(Ticket& ticket);
  void wake_all_of(const std::vector<Arrival>& requests);
  // EBUSY if one of the holder's long-term pins needs this lease, or what of it lies outside
  // `keep`.
  Status may_give_up(const LeaseInfo& lease, FileRange keep) const;
};

}  // namespace daxfs
