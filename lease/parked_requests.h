// The requests that wait, and what each waits for.
//
// A parked detach watches one block that stands in its way (as a SAT solver watches one literal of
// a clause): unpinning other ranges does not touch it, and unpinning the watched block makes it
// look for another one. Only when there is none left is it woken. A parked pin hangs behind one
// fence. A detach that waits for leases alone watches nothing: giving up a lease wakes it.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "base/units.h"
#include "lease/pin_counts.h"
#include "lease/ticket.h"

namespace daxfs {

// Not thread-safe (the gate's lock guards it). Keeps its tickets alive.
class ParkedRequests {
 public:
  // Precondition for both: the ticket is with its caller.
  void park_detach(const TicketRef& ticket, Obstacles obstacles, SteadyTime deadline);
  void park_pin(const TicketRef& ticket, Arrival fence, SteadyTime deadline);
  // Back to its caller, whatever it was doing here.
  void forget(Ticket& ticket);

  // Makes a parked request ready to be retried; no effect on others.
  void wake(Ticket& ticket);
  void wake(Arrival arrival);
  void wake_behind(Arrival fence);
  void wake_due(SteadyTime now);
  void wake_all();
  // Pins of `range` have gone: wakes the detaches that have nobody else's pin in their way now.
  void unpinned(PoolRange range, const PinCountMap& counts);

  // The oldest ready request, now with its caller; null when there is none.
  TicketRef take_ready();
  bool any_ready() const { return !ready_.empty(); }
  SteadyTime next_deadline() const {
    return deadlines_.empty() ? kNever : deadlines_.begin()->first.first;
  }
  // Up to `limit` of all that wait, whether they are ready or not, which came after `arrival`;
  // ascending. Good until the next change.
  std::vector<const Ticket*> after(Arrival arrival, std::size_t limit) const;
  std::size_t waiting() const { return parked_.size() + ready_.size(); }
  std::size_t waiting_of(uid_t user) const {
    const auto found = by_user_.find(user);
    return found == by_user_.end() ? 0 : found->second;
  }

 private:
  void park(const TicketRef& ticket, Ticket::State state, SteadyTime deadline);
  void leave(const Ticket& ticket);
  void unlink(Ticket& ticket);

  using ByArrival = absl::btree_map<Arrival, TicketRef>;
  ByArrival parked_;
  ByArrival ready_;
  absl::btree_map<std::pair<PoolBlock, Arrival>, Ticket*> watches_;
  absl::btree_map<std::pair<SteadyTime, Arrival>, Ticket*> deadlines_;
  absl::btree_map<std::pair<Arrival, Arrival>, Ticket*> behind_;  // fence, pin
  absl::flat_hash_map<uid_t, std::size_t> by_user_;  // how many; only users who have some
};

}  // namespace daxfs
