// Operations that may have to wait at the gate: how they are tried again, and cancelled.
#pragma once

#include <functional>
#include <memory>

#include "base/mutex.h"
#include "base/result.h"
#include "lease/gate.h"

namespace daxfs {

// Called exactly once: before the operation returns, or later on the gate's thread.
template <class T>
using Completion = std::function<void(Result<T>)>;
using Done = std::function<void(Status)>;

// Where a request that waits can be told to give up. Made before the request is issued; any thread
// may cancel, any time, also before the request waits and after it has been answered.
class Cancellation {
 public:
  void cancel();
  // What is to be cancelled; at once if it was asked for already. The gate outlives the ticket.
  void bind(Gate& gate, const TicketRef& ticket);

 private:
  Mutex mutex_;  // taken before the gate's
  bool cancelled_ GUARDED_BY(mutex_) = false;
  Gate* gate_ GUARDED_BY(mutex_) = nullptr;
  std::weak_ptr<Ticket> ticket_ GUARDED_BY(mutex_);
};
using CancellationRef = std::shared_ptr<Cancellation>;

// What a request works on: an open file or an inode, which must not go while it waits.
using Kept = std::shared_ptr<const void>;

// One try of an operation. True: the gate has parked it, and it will be tried again; it must not
// hold a lock then. False: it has answered. A request can be answered by another thread, and all
// that it refers to be released, as soon as it is parked: after that a try may use nothing but
// what it owns.
using Try = std::function<bool(const TicketRef&)>;

// Tries it now, and after each wake-up, on the gate's thread, until it returns false. `kept` stays
// until then, and longer than all locks of the last try.
void run_at_gate(Gate& gate, const CancellationRef& cancellation, Kept kept, Try attempt);

}  // namespace daxfs
