#include "lease/parked_requests.h"

#include <optional>
#include <utility>
#include <vector>

#include "base/require.h"

namespace daxfs {
namespace {

std::optional<PoolBlock> first_obstacle(const PinCountMap& counts, const Obstacles& obstacles,
                                        PoolRange range) {
  std::optional<PoolBlock> found;
  counts.walk(range, [&](PoolRange piece, const PinCountMap::Cover& cover) {
    if (!counts.foreign(cover, obstacles.awaited, obstacles.process)) return true;
    found = piece.start;
    return false;
  });
  return found;
}

// Moves the watch to a block that is still in the way: onwards from the old one, then all around,
// so that a request that waits for n pieces looks at each of them only a few times in all.
bool watch_another(const PinCountMap& counts, Obstacles& obstacles) {
  const std::size_t pieces = obstacles.pieces.size();
  const std::size_t old = obstacles.piece;
  for (std::size_t step = 0; step <= pieces; ++step) {
    const std::size_t i = (old + step) % pieces;
    PoolRange range = obstacles.pieces[i];
    if (step == 0) range = {obstacles.watched, range.end() - obstacles.watched};
    if (const auto block = first_obstacle(counts, obstacles, range)) {
      obstacles.piece = i;
      obstacles.watched = *block;
      return true;
    }
  }
  return false;
}

}  // namespace

void ParkedRequests::park(const TicketRef& ticket, Ticket::State state, SteadyTime deadline) {
  DAXFS_REQUIRE(ticket->state == Ticket::State::with_caller,
                "request {} is parked, and is not with its caller (state {})", ticket->arrival,
                static_cast<int>(ticket->state));
  ticket->state = state;
  ticket->deadline = deadline;
  if (deadline != kNever) deadlines_.insert({{deadline, ticket->arrival}, ticket.get()});
  parked_.insert({ticket->arrival, ticket});
  ++by_user_[ticket->user];
}

void ParkedRequests::park_detach(const TicketRef& ticket, Obstacles obstacles,
                                 SteadyTime deadline) {
  DAXFS_REQUIRE(!obstacles.none(), "request {} is parked and waits for nothing", ticket->arrival);
  park(ticket, Ticket::State::parked_detach, deadline);
  ticket->obstacles = std::move(obstacles);
  if (Obstacles& o = ticket->obstacles; !o.pieces.empty()) {
    o.piece = 0;
    o.watched = o.pieces.front().start;
    watches_.insert({{o.watched, ticket->arrival}, ticket.get()});
  }
}

void ParkedRequests::park_pin(const TicketRef& ticket, Arrival fence, SteadyTime deadline) {
  park(ticket, Ticket::State::parked_pin, deadline);
  ticket->behind = fence;
  behind_.insert({{fence, ticket->arrival}, ticket.get()});
}

void ParkedRequests::unlink(Ticket& ticket) {
  if (ticket.state == Ticket::State::parked_detach) {
    if (!ticket.obstacles.pieces.empty()) {
      watches_.erase({ticket.obstacles.watched, ticket.arrival});
    }
    ticket.obstacles = {};
  } else if (ticket.state == Ticket::State::parked_pin) {
    behind_.erase({ticket.behind, ticket.arrival});
  }
  if (ticket.deadline != kNever) deadlines_.erase({ticket.deadline, ticket.arrival});
  ticket.deadline = kNever;
}

void ParkedRequests::forget(Ticket& ticket) {
  if (ticket.state == Ticket::State::ready) {
    ready_.erase(ticket.arrival);
  } else if (ticket.state == Ticket::State::parked_detach ||
             ticket.state == Ticket::State::parked_pin) {
    unlink(ticket);
    parked_.erase(ticket.arrival);
  } else {
    return;
  }
  ticket.state = Ticket::State::with_caller;
  leave(ticket);
}

void ParkedRequests::leave(const Ticket& ticket) {
  const auto user = by_user_.find(ticket.user);
  DAXFS_REQUIRE(user != by_user_.end(), "request {} of user {} was not counted", ticket.arrival,
                ticket.user);
  if (--user->second == 0) by_user_.erase(user);
}

void ParkedRequests::wake(Ticket& ticket) { wake(ticket.arrival); }

void ParkedRequests::wake(Arrival arrival) {
  const auto it = parked_.find(arrival);
  if (it == parked_.end()) return;
  Ticket& ticket = *it->second;
  unlink(ticket);
  ticket.state = Ticket::State::ready;
  TicketRef ref = std::move(it->second);
  parked_.erase(it);
  ready_.insert({ticket.arrival, std::move(ref)});
}

void ParkedRequests::wake_behind(Arrival fence) {
  for (auto it = behind_.lower_bound({fence, 0}); it != behind_.end() && it->first.first == fence;
       it = behind_.lower_bound({fence, 0})) {
    wake(*it->second);
  }
}

void ParkedRequests::wake_due(SteadyTime now) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now) {
    wake(*deadlines_.begin()->second);
  }
}

void ParkedRequests::wake_all() {
  while (!parked_.empty()) wake(*parked_.begin()->second);
}

void ParkedRequests::unpinned(PoolRange range, const PinCountMap& counts) {
  if (watches_.empty()) return;
  // Thousands may watch the same block: it is looked up once for all of them.
  std::vector<Ticket*> free_of_it;
  std::optional<PoolBlock> block;
  PinCountMap::Cover cover;
  for (auto it = watches_.lower_bound({range.start, 0});
       it != watches_.end() && it->first.first < range.end(); ++it) {
    if (block != it->first.first) {
      block = it->first.first;
      cover = counts.at(*block);
    }
    const Obstacles& obstacles = it->second->obstacles;
    if (!counts.foreign(cover, obstacles.awaited, obstacles.process)) {
      free_of_it.push_back(it->second);
    }
  }
  for (Ticket* ticket : free_of_it) {
    const PoolBlock old = ticket->obstacles.watched;
    if (!watch_another(counts, ticket->obstacles)) {
      wake(*ticket);
      continue;
    }
    watches_.erase({old, ticket->arrival});
    watches_.insert({{ticket->obstacles.watched, ticket->arrival}, ticket});
  }
}

std::vector<const Ticket*> ParkedRequests::after(Arrival arrival, std::size_t limit) const {
  std::vector<const Ticket*> result;
  auto parked = parked_.upper_bound(arrival);
  auto ready = ready_.upper_bound(arrival);
  while (result.size() < limit && (parked != parked_.end() || ready != ready_.end())) {
    const bool from_parked =
        ready == ready_.end() || (parked != parked_.end() && parked->first < ready->first);
    result.push_back((from_parked ? parked : ready)->second.get());
    ++(from_parked ? parked : ready);
  }
  return result;
}

TicketRef ParkedRequests::take_ready() {
  if (ready_.empty()) return nullptr;
  TicketRef ticket = std::move(ready_.begin()->second);
  ready_.erase(ready_.begin());
  ticket->state = Ticket::State::with_caller;
  leave(*ticket);
  return ticket;
}

}  // namespace daxfs
