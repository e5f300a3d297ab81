// What the gate remembers of a request from begin() to end().
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/units.h"
#include "lease/fences.h"
#include "lease/gate.h"
#include "lease/pin_counts.h"
#include "lease/repeats.h"

namespace daxfs {

inline constexpr SteadyTime kNever = SteadyTime::max();

// What a parked detach waits for.
struct Obstacles {
  Awaited awaited = Awaited::any;
  pid_t process = 0;              // whose own pins it does not wait for
  std::vector<PoolRange> pieces;  // these are pinned by others
  bool leases = false;            // others have leases there, and it waits for all leases, too
  bool none() const { return pieces.empty() && !leases; }

  // A block of pieces[piece] that is still pinned by others. As long as it is, nothing else needs
  // looking at.
  std::size_t piece = 0;
  PoolBlock watched;
};

// Everything is guarded by the gate's lock.
class Ticket {
 public:
  enum class State {
    with_caller,    // being tried, or not yet
    parked_detach,  // watching a block, perhaps with a deadline
    parked_pin,     // behind a fence
    ready,          // its continuation is due
    ended,
  };

  Ticket(Arrival when, Gate::Continuation continuation)
      : arrival(when), retry(std::move(continuation)) {}

  // Its place: that of the request which it repeats, from its first judgement on.
  Arrival arrival;
  bool placed = false;
  Gate::Continuation retry;  // the gate's thread takes it out while it runs
  State state = State::with_caller;
  bool cancelled = false;
  std::shared_ptr<const void> kept;  // until end()

  // What earlier judgements of this request said, or of the one that it repeats.
  Progress progress;
  // When its waiting is to end as if it had been interrupted: see Gate::limit_waits().
  SteadyTime interrupt_at = kNever;
  bool free_all = false;  // the ruling it went ahead with
  Fences::Fence takes;    // what it was judged for
  BlockCount limbo_reserved;
  std::vector<LeaseId> breaking;  // those that it has broken and waits for
  bool has_waited = false;
  SteadyTime waits_since;
  GateEvent about;  // for its events: who wants what, under which policy
  Wish wish = Wish::punch;
  uid_t user = 0;  // whose request it is; does not change while it is parked

  std::optional<Fences::Fence> fence;
  // Where ParkedRequests keeps it, by state.
  Obstacles obstacles;
  SteadyTime deadline = kNever;
  Arrival behind = 0;
};

}  // namespace daxfs
