#include "src/waiting.h"

#include <utility>

namespace daxfs {
namespace {

struct Attempt : std::enable_shared_from_this<Attempt> {
  Attempt(Gate& at, Kept what, Try one)
      : gate(at), kept(std::move(what)), attempt(std::move(one)) {}

  void run() {
    const auto self = shared_from_this();  // end() lets go of the ticket and so of the continuation
    if (!attempt(ticket)) gate.end(ticket);
  }

  Gate& gate;
  const Kept kept;
  const Try attempt;
  TicketRef ticket;
};

}  // namespace

void Cancellation::cancel() {
  const MutexLock guard(mutex_);
  cancelled_ = true;
  if (const TicketRef ticket = ticket_.lock()) gate_->cancel(ticket);
}

void Cancellation::bind(Gate& gate, const TicketRef& ticket) {
  const MutexLock guard(mutex_);
  gate_ = &gate;
  ticket_ = ticket;
  if (cancelled_) gate.cancel(ticket);
}

void run_at_gate(Gate& gate, const CancellationRef& cancellation, Kept kept, Try attempt) {
  const auto run = std::make_shared<Attempt>(gate, std::move(kept), std::move(attempt));
  run->ticket = gate.begin([run] { run->run(); });
  if (cancellation) cancellation->bind(gate, run->ticket);
  run->run();
}

}  // namespace daxfs
