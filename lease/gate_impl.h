// The gate's inside. The public functions are spread over gate.cpp (requests and the thread),
// gate_detach.cpp (judging and detaching), gate_pins.cpp (pinning) and gate_looking.cpp.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "lease/fences.h"
#include "lease/gate.h"
#include "lease/limbo.h"
#include "lease/parked_requests.h"
#include "lease/pin_counts.h"
#include "lease/pin_table.h"
#include "lease/ticket.h"

namespace daxfs {

struct Gate::Impl {
  Impl(const GateOptions& gate_options, FreeBlocks give_back, PolicyLookup lookup)
      : free_blocks(std::move(give_back)), policies(std::move(lookup)), options(gate_options) {}

  const FreeBlocks free_blocks;
  const PolicyLookup policies;
  std::atomic<Arrival> last_arrival = 0;
  std::atomic<std::uint64_t> last_holder = 0;

  mutable std::mutex mutex;  // protects everything below, and every Ticket
  GateOptions options;
  PinTable pins;
  PinCountMap counts;
  Limbo limbo;
  Fences fences;
  ParkedRequests parked;
  BlockCount limbo_reserved;  // for detaches that may go ahead and have not done so yet
  std::uint64_t long_pins = 0;
  std::uint64_t short_pins = 0;
  BlockCount pinned;
  bool stopping = false;
  std::vector<PoolRange> unpinned;  // scratch of release()

  // The thread that runs continuations, and until when it means to sleep.
  std::condition_variable attention;
  SteadyTime sleeps_until = kNever;
  std::once_flag stopped;
  std::thread thread;

  // --- gate.cpp; all but run() with the lock held ---
  void run();
  void retry(std::unique_lock<std::mutex>& lock, const TicketRef& ticket);
  // Wakes the thread if there is something to do earlier than it believes.
  void notify();
  void lift_fence(Ticket& ticket);

  // --- gate_detach.cpp; with the lock held ---
  Result<Verdict> judge(const TicketRef& ticket, const DetachRequest& request);
  Result<Verdict> wait(const TicketRef& ticket, const DetachRequest& request, Obstacles obstacles,
                       SteadyTime deadline);
  Ruling on_timeout(const Conflict& conflict) const;
  void release_reservation(Ticket& ticket, BlockCount at_most);
  // Puts what is pinned into limbo (returning how much that is), the rest into `freed`.
  BlockCount sort_out(std::span<const PoolRange> blocks, std::vector<PoolRange>& freed);

  // --- gate_pins.cpp; with the lock held ---
  // Undoes a pin. Blocks that leave limbo by that are appended to `freed`.
  PinInfo release(HolderId holder, PinId id, const PinTable::Pin& pin,
                  std::vector<PoolRange>& freed);
};

}  // namespace daxfs
