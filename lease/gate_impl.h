// The gate's inside. The public functions are spread over gate.cpp (requests and the thread),
// gate_detach.cpp (judging and detaching), gate_pins.cpp (pinning), gate_leases.cpp (leases and
// breaks), gate_looking.cpp (reports) and gate_audit.cpp (checks for a scrub).
#pragma once

#include <absl/container/flat_hash_map.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "lease/fences.h"
#include "lease/gate.h"
#include "lease/lease_table.h"
#include "lease/limbo.h"
#include "lease/parked_requests.h"
#include "lease/pin_counts.h"
#include "lease/pin_table.h"
#include "lease/repeats.h"
#include "lease/ticket.h"
#include "lease/wait_times.h"

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
        repeats(
            [this](Arrival arrival, const Fences::Fence& fence) {
              mutex.assert_held();
              lift_fence(arrival, fence);
            },
            hooks.processes) {}

  const GateHooks hooks;
  std::atomic<Arrival> last_arrival = 0;
  std::atomic<std::uint64_t> last_holder = 0;

  mutable Mutex mutex;  // protects every Ticket, too; its place: src/README.md, Locks
  GateOptions options GUARDED_BY(mutex);
  PinTable pins GUARDED_BY(mutex);
  PinCountMap counts GUARDED_BY(mutex);
  Limbo limbo GUARDED_BY(mutex);
  // Blocks that were taken out of limbo and are not in the free space yet. Points into the
  // Aftermath of the call that frees them.
  std::vector<const std::vector<PoolRange>*> leaving GUARDED_BY(mutex);
  LeaseTable leases GUARDED_BY(mutex);
  Fences fences GUARDED_BY(mutex);
  ParkedRequests parked GUARDED_BY(mutex);
  Repeats repeats GUARDED_BY(mutex);
  std::optional<std::chrono::milliseconds> longest_wait GUARDED_BY(mutex);
  BlockCount limbo_reserved
      GUARDED_BY(mutex);  // for detaches that may go ahead and have not done so yet
  std::uint64_t long_pins GUARDED_BY(mutex) = 0;
  std::uint64_t short_pins GUARDED_BY(mutex) = 0;
  BlockCount pinned GUARDED_BY(mutex);
  struct Pinned {
    BlockCount blocks;
    std::uint64_t pins = 0;
  };
  absl::flat_hash_map<uid_t, Pinned> pinned_by GUARDED_BY(mutex);  // only users who have pins
  mutable GateEventCounts happened GUARDED_BY(mutex){};
  mutable WaitTimes waits GUARDED_BY(mutex);
  bool stopping GUARDED_BY(mutex) = false;
  std::vector<PoolRange> unpinned GUARDED_BY(mutex);  // scratch of release()

  // The thread that runs continuations, and until when it means to sleep.
  Condition attention;
  SteadyTime sleeps_until GUARDED_BY(mutex) = kNever;
  std::once_flag stopped;
  std::thread thread;

  // What is to be done once the lock is released: see finish().
  struct Aftermath {
    std::vector<PoolRange> freed;
    std::vector<HolderId> told;
  };
  void finish(const Aftermath& aftermath) EXCLUDES(mutex);
  // In the hold of the lock in which they left limbo.
  void note_leaving(const Aftermath& aftermath) REQUIRES(mutex);

  // --- gate.cpp ---
  void run() EXCLUDES(mutex);
  // Lets go of the lock meanwhile.
  void retry(const TicketRef& ticket) REQUIRES(mutex);
  // Lifts those whose processes have ended. Lets go of the lock while it reads /proc.
  void look_at_left_fences() REQUIRES(mutex);
  // Before a request is judged, each time: what it is, and no more waiting.
  void begin_try(Ticket& ticket, const GateEvent& about, Wish wish, uid_t user) REQUIRES(mutex);
  // When the thread has something to do, if nothing happens before.
  SteadyTime next_deadline() const REQUIRES(mutex);
  // Wakes the thread if there is something to do earlier than it believes.
  void notify() REQUIRES(mutex);
  void lift_fence(Ticket& ticket) REQUIRES(mutex);
  void lift_fence(Arrival arrival, const Fences::Fence& fence) REQUIRES(mutex);
  void post(GateEvent::Kind kind, GateEvent about) const REQUIRES(mutex);
  // Whether one more than `count` would be too many for this user.
  bool at_limit(uid_t user, std::uint64_t count) const REQUIRES(mutex);
  // Whether a request that would have to wait may. EINTR: it has been interrupted, or has waited
  // for as long as the kernel lets it; EAGAIN: its user has as many as may be (one that has waited
  // goes on).
  Status may_wait(const Ticket& ticket) const REQUIRES(mutex);
  void note_waiting(Ticket& ticket) const REQUIRES(mutex);
  // Of a request whose waiting ends, if it has waited.
  void count_wait(const Ticket& ticket) const REQUIRES(mutex);
  void note_resumed(Ticket& ticket) const REQUIRES(mutex);
  // Before a request is judged for the first time: one that repeats another takes its place.
  void take_place(Ticket& ticket, const Repeats::Key& key) REQUIRES(mutex);
  // Of a request that is about to be answered.
  std::unexpected<Errno> refuse(Ticket& ticket, int error) const REQUIRES(mutex);
  // With EINTR, of one that would have had to wait: it may be repeated, and its place is kept.
  std::unexpected<Errno> interrupt(Ticket& ticket, const Repeats::Key& key) REQUIRES(mutex);

  // --- gate_detach.cpp ---
  Result<Verdict> judge(const TicketRef& ticket, const DetachRequest& request, Aftermath& aftermath)
      REQUIRES(mutex);
  struct Judging;
  void forget_last_try(Ticket& ticket, const DetachRequest& request, PinPolicy policy)
      REQUIRES(mutex);
  // An answer while there are short-term pins in the way whose time has not passed.
  std::optional<Result<Verdict>> await_short_pins(const Judging& judging) REQUIRES(mutex);
  // An answer while the request may wait for pins and leases; none once the policy's time is up.
  std::optional<Result<Verdict>> await(Judging& judging, PinPolicy policy, const Ruling& ruling)
      REQUIRES(mutex);
  // on_timeout= rules in the place of the policy that let it wait.
  Result<Verdict> give_up_waiting(const Judging& judging, const Ruling& waited) REQUIRES(mutex);
  // For what does not wait.
  Result<Verdict> obey(const Judging& judging, const Ruling& ruling) REQUIRES(mutex);
  // Parks it, unless nothing but its own process is in the way, or it may not wait.
  Result<Verdict> wait(const TicketRef& ticket, const DetachRequest& request, Obstacles obstacles,
                       SteadyTime deadline) REQUIRES(mutex);
  Verdict reserve_limbo(Ticket& ticket, BlockCount count) REQUIRES(mutex);
  void release_reservation(Ticket& ticket, BlockCount at_most) REQUIRES(mutex);
  // Puts what is pinned into limbo (returning how much that is), the rest into `freed`.
  BlockCount sort_out(std::span<const PoolRange> blocks, std::vector<PoolRange>& freed)
      REQUIRES(mutex);

  // --- gate_pins.cpp ---
  Result<Verdict> admit(const TicketRef& ticket, const PinRequest& request) REQUIRES(mutex);
  // Parks what came later than a fence over the range behind it; EAGAIN if it does not want to
  // wait.
  Result<Verdict> pass_fences(const TicketRef& ticket, const Repeats::Key& asked, bool nowait)
      REQUIRES(mutex);
  PinInfo new_pin(const PinRequest& request) REQUIRES(mutex);
  // `process`: whose it counts as, see counted_process().
  void count_in(const PinInfo& pin, std::span<const PoolRange> blocks, pid_t process)
      REQUIRES(mutex);
  // Undoes a pin. Blocks that leave limbo by that are appended to `freed`.
  PinInfo release(HolderId holder, PinId id, const PinTable::Pin& pin,
                  std::vector<PoolRange>& freed) REQUIRES(mutex);
  // The process that a pin counts for, when a requester would wait for pins of its own alone.
  pid_t counted_process(HolderId holder, const PinTable::Pin& pin) const REQUIRES(mutex) {
    return pins.has_left(holder) ? 0 : pin.process();
  }
  // The holder has no lease any more, and no news of any.
  void give_up_all(HolderId holder) REQUIRES(mutex);
  // The last step of a pin.
  PinInfo end_pin(HolderId holder, PinId pin, Aftermath& aftermath) REQUIRES(mutex);
  // Some of the holder's pins, at most kDropAtOnce; lets go of the lock meanwhile. Whether there
  // are more.
  bool drop_some(HolderId holder, std::vector<PinInfo>& dropped, Aftermath& aftermath)
      REQUIRES(mutex);

  // --- gate_looking.cpp ---
  PinInfo leased(PinInfo pin) const REQUIRES(mutex);

  // --- gate_leases.cpp ---
  // Breaks the leases for a request that waits until `deadline`, each once.
  void break_leases(Ticket& ticket, const DetachRequest& request,
                    const std::vector<LeaseInfo>& broken, SteadyTime deadline, Aftermath& aftermath)
      REQUIRES(mutex);
  // Tells the holders what has been decided.
  void tell_leases(const Ticket& ticket, const DetachRequest& request,
                   const std::vector<LeaseInfo>& told, Aftermath& aftermath) REQUIRES(mutex);
  void revoke_leases(const DetachRequest& request, const std::vector<LeaseInfo>& revoked,
                     Aftermath& aftermath) REQUIRES(mutex);
  void give_up(const LeaseInfo& lease) REQUIRES(mutex);
  // The request waits for no lease any more.
  void end_breaks(Ticket& ticket) REQUIRES(mutex);
  void wake_all_of(const std::vector<Arrival>& requests) REQUIRES(mutex);
  // EBUSY if one of the holder's long-term pins needs this lease, or what of it lies outside
  // `keep`.
  Status may_give_up(const LeaseInfo& lease, FileRange keep) const REQUIRES(mutex);
};

}  // namespace daxfs
