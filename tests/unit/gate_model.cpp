#include "tests/unit/gate_model.h"

#include <cerrno>
#include <utility>

namespace daxfs::test {
namespace {

using Range = GateModel::Range;
using Time = GateModel::Time;

Time after(Time start, std::uint64_t ms) {
  return ms > GateModel::kNever / 1'000'000 ? GateModel::kNever : start + ms;
}

template <class Items>
auto find_in(Items& items, int number) -> decltype(&items.front()) {
  for (auto& item : items) {
    if (item.number == number) return &item;
  }
  return nullptr;
}

}  // namespace

// --- looking ---

GateModel::Request* GateModel::find_request(int number) { return find_in(requests, number); }
const GateModel::Pin* GateModel::find_pin(int number) const { return find_in(pins, number); }
const GateModel::Lease* GateModel::find_lease(int number) const { return find_in(leases, number); }

std::vector<GateModel::Block> GateModel::blocks_of(const Range& range) const {
  std::vector<Block> result;
  for (const auto& [at, block] : files[range.inode]) {
    if (range.has(at)) result.push_back(block);
  }
  return result;
}

PinCounts GateModel::counts(Block block) const {
  PinCounts result;
  for (const Pin& pin : pins) {
    const auto n =
        static_cast<std::uint32_t>(std::count(pin.blocks.begin(), pin.blocks.end(), block));
    (pin.kind == PinKind::long_term ? result.long_term : result.short_term) += n;
  }
  return result;
}

std::uint64_t GateModel::in_limbo() const {
  return static_cast<std::uint64_t>(std::count(owner.begin(), owner.end(), Owner::limbo));
}

std::optional<Time> GateModel::breaking(int lease) const {
  std::optional<Time> first;
  for (const Request& r : requests) {
    const auto it = r.breaking.find(lease);
    if (it != r.breaking.end() && (!first || it->second < *first)) first = it->second;
  }
  return first;
}

const GateModel::Lease* GateModel::lease_over(const Pin& pin) const {
  for (const Lease& lease : leases) {
    if (lease.holder == pin.holder && overlap(lease.range, pin.range)) return &lease;
  }
  return nullptr;
}

std::vector<GateModel::Block> GateModel::pinned(const std::vector<Block>& blocks, Awaited awaited,
                                                std::optional<pid_t> except) const {
  std::vector<Block> result;
  for (const Block block : blocks) {
    for (const Pin& pin : pins) {
      if (awaited == Awaited::short_term && pin.kind != PinKind::short_term) continue;
      // Nobody is process 0.
      if (except && *except != 0 && !pin.left && pin.requester.process == *except) continue;
      if (std::find(pin.blocks.begin(), pin.blocks.end(), block) == pin.blocks.end()) continue;
      result.push_back(block);
      break;
    }
  }
  return result;
}

bool GateModel::covered(int holder, const Range& range) const {
  for (std::uint64_t at = range.first; at < range.first + range.count; ++at) {
    const bool here = std::any_of(leases.begin(), leases.end(), [&](const Lease& lease) {
      return lease.holder == holder && lease.range.inode == range.inode && lease.range.has(at);
    });
    if (!here) return false;
  }
  return true;
}

// Whether a long-term pin of its holder would be without a lease, were this one so short.
bool GateModel::needed(const Lease& lease, std::uint64_t first, std::uint64_t count) const {
  if (options.longterm != LongTerm::lease) return false;
  GateModel without = *this;
  find_in(without.leases, lease.number)->range = {lease.range.inode, first, count};
  return std::any_of(pins.begin(), pins.end(), [&](const Pin& pin) {
    return pin.kind == PinKind::long_term && pin.holder == lease.holder &&
           overlap(pin.range, lease.range) && !without.covered(pin.holder, pin.range);
  });
}

// --- who is woken ---

void GateModel::wake(Request& r, std::vector<int>& now_awake) {
  if (!r.parked) return;
  r.parked = false;
  now_awake.push_back(r.number);
}

void GateModel::note(std::vector<int> now_awake) {
  std::sort(now_awake.begin(), now_awake.end(),
            [&](int a, int b) { return find_request(a)->place < find_request(b)->place; });
  if (!now_awake.empty()) woken.push_back(std::move(now_awake));
}

template <class Condition>
void GateModel::wake_if(Condition condition) {
  std::vector<int> now_awake;
  for (Request& r : requests) {
    if (r.parked && condition(r)) wake(r, now_awake);
  }
  note(std::move(now_awake));
}

void GateModel::end(int number) {
  const int place = find_request(number)->place;
  std::erase_if(requests, [&](const Request& r) { return r.number == number; });
  const bool fence_stands = std::any_of(
      interrupted.begin(), interrupted.end(),
      [&](const Remembered& left) { return left.request.fence && left.request.place == place; });
  if (!fence_stands) wake_if([&](const Request& r) { return r.behind == place; });
}

void GateModel::cancel(int number) {
  find_request(number)->cancelled = true;
  wake_if([&](const Request& r) { return r.number == number; });
}

void GateModel::set_options(const GateOptions& wanted) {
  options = wanted;
  events.push_back({GateEvent::Kind::policy, 0, 0, 0, 0, std::nullopt});
  wake_if([](const Request&) { return true; });
}

void GateModel::set_own_policy(std::uint64_t inode, std::optional<PinPolicy> policy) {
  own_policy[inode] = policy;
  wake_if([&](const Request& r) { return r.what == What::detach && r.range.inode == inode; });
}

void GateModel::advance(Time ms) {
  now += ms;
  std::vector<int> now_awake;
  for (Request& r : requests) {
    if (r.parked && r.deadline <= now) wake(r, now_awake);
  }
  const bool look = fences_are_left() && now - looked >= 100;
  if (look) looked = now;
  for (Remembered& left : interrupted) {
    const bool alone = look && ended.contains(left.request.requester.process);
    if (left.until <= now || alone) leave_fence(left.request, now_awake);
  }
  std::erase_if(interrupted, [&](const Remembered& left) { return left.until <= now; });
  note(std::move(now_awake));
}

void GateModel::stop() {
  stopped = true;
  wake_if([](const Request&) { return true; });
}

// --- detaching ---

std::uint64_t GateModel::take_away(const Range& range, bool keep_pinned) {
  std::uint64_t kept = 0;
  for (const Block block : blocks_of(range)) {
    const bool keep = keep_pinned && !counts(block).none();
    owner[block] = keep ? Owner::limbo : Owner::free;
    if (keep) {
      ++kept;
    } else {
      freed.push_back(block);
    }
  }
  std::erase_if(files[range.inode], [&](const auto& entry) { return range.has(entry.first); });
  return kept;
}

GateModel::Answer GateModel::refuse(Request& r, int error) {
  if (error != EINTR) {
    post(GateEvent::Kind::refused, r);
  } else if (r.has_waited) {
    post(GateEvent::Kind::interrupted, r);
  }
  return {.error = error};
}

GateModel::Answer GateModel::go_ahead(Request& r, bool keep_pinned) {
  if (r.has_waited) post(GateEvent::Kind::resumed, r);
  const std::uint64_t kept = take_away(r.range, keep_pinned);
  if (kept > 0) post(GateEvent::Kind::deferred, r);
  // Pinned blocks have left the file: who waits for these pins need not any more.
  if (!keep_pinned || kept > 0) {
    wake_if([&](const Request& other) { return other.fence && overlap(other.range, r.range); });
  }
  return {};
}

bool GateModel::may_go_ahead(PinPolicy policy, std::uint64_t pinned_blocks) const {
  if (pinned_blocks == 0) return true;
  if (policy == PinPolicy::refuse) return false;
  return in_limbo() + pinned_blocks <= options.limbo_limit.value / kBlockSize;
}

GateModel::Answer GateModel::wait(Request& r, Awaited awaited, Time deadline,
                                  const std::vector<Lease>& broken) {
  r.in_the_way = pinned(blocks_of(r.range), awaited, r.requester.process);
  const bool others_lease = std::any_of(broken.begin(), broken.end(), [&](const Lease& lease) {
    return r.requester.process == 0 || lease.requester.process != r.requester.process;
  });
  if (r.in_the_way.empty() && !others_lease) return refuse(r, EDEADLK);
  r.fence = true;
  if (r.cancelled) return interrupt(r);
  std::map<int, Time> before;
  before.swap(r.breaking);
  for (const Lease& lease : broken) {
    if (!before.contains(lease.number)) tell(r, lease, deadline);
    r.breaking[lease.number] = deadline;
  }
  if (!r.has_waited) post(GateEvent::Kind::waiting, r);
  r.has_waited = true;
  r.awaited = awaited;
  r.deadline = deadline;
  r.parked = true;
  return {.error = 0, .parked = true};
}

GateModel::Answer GateModel::judge(int number) {
  Request& r = *find_request(number);
  const PinPolicy policy = policy_for_request(r);
  r.parked = false;
  r.deadline = kNever;
  if (stopped) return refuse(r, EINTR);
  repeat(r);

  std::vector<Lease> others;
  for (const Lease& lease : leases) {
    if (lease.holder != r.holder && overlap(lease.range, r.range)) others.push_back(lease);
  }
  const bool exclusive =
      std::any_of(others.begin(), others.end(), [](const Lease& lease) { return lease.exclusive; });
  if (exclusive && policy != PinPolicy::ignore) return refuse(r, ETXTBSY);

  if (!r.first_judged) r.first_judged = now;
  const Time shorts_until = after(*r.first_judged, options.short_timeout_ms);
  if (now >= shorts_until) r.shorts_are_long = true;
  const std::vector<Block> blocks = blocks_of(r.range);
  if (!r.shorts_are_long && !pinned(blocks, Awaited::short_term, std::nullopt).empty()) {
    return wait(r, Awaited::short_term, shorts_until, {});
  }

  const std::uint64_t pinned_blocks = pinned(blocks, Awaited::any, std::nullopt).size();
  if (pinned_blocks == 0 && others.empty()) return go_ahead(r, true);
  const auto tell_all = [&] {
    for (const Lease& lease : others) tell(r, lease, kNever);
  };
  if (policy == PinPolicy::ignore) {
    tell_all();
    return go_ahead(r, false);
  }
  PinPolicy rules = policy;
  if (policy == PinPolicy::breaks || (policy == PinPolicy::wait && pinned_blocks > 0)) {
    if (r.waits_under != policy) {
      r.waits_under = policy;
      r.waits_since = now;
      r.latest = r.requester.process == kHurried ? now + kHurry : kNever;
    }
    const std::uint64_t timeout =
        policy == PinPolicy::wait ? options.wait_timeout_ms : options.break_timeout_ms;
    const Time limit = timeout == 0 ? kNever : after(r.waits_since, timeout);
    if (now < limit && now >= r.latest) {
      post(GateEvent::Kind::timeout, r);
      return refuse(r, ETXTBSY);
    }
    if (now < limit) {
      return wait(r, Awaited::any, std::min(limit, r.latest),
                  policy == PinPolicy::breaks ? others : std::vector<Lease>());
    }
    post(GateEvent::Kind::timeout, r);
    rules = options.on_timeout == OnTimeout::defer ? PinPolicy::defer : PinPolicy::refuse;
  }
  if (rules != PinPolicy::wait && !may_go_ahead(rules, pinned_blocks)) return refuse(r, ETXTBSY);
  if (policy == PinPolicy::breaks) {
    for (const Lease& lease : others) revoke(r, lease);
  } else {
    tell_all();
  }
  return go_ahead(r, true);
}

void GateModel::last_close(std::uint64_t inode) {
  const PinPolicy policy = own_policy[inode].value_or(options.pin_policy);
  // The file may be another one from now on.
  const auto there = [&](const Remembered& left) { return left.request.range.inode == inode; };
  std::vector<int> now_awake;
  for (Remembered& left : interrupted) {
    if (there(left)) leave_fence(left.request, now_awake);
  }
  std::erase_if(interrupted, there);
  note(std::move(now_awake));
  const std::uint64_t kept = take_away({inode, 0, kFileBlocks}, policy != PinPolicy::ignore);
  if (kept == 0) return;
  events.push_back({GateEvent::Kind::deferred, inode, 0, kept * kBlockSize, 0, policy});
}

// --- pins ---

GateModel::Answer GateModel::pin(int number) {
  Request& r = *find_request(number);
  r.parked = false;
  if (stopped) return refuse(r, EINTR);
  if (r.kind == PinKind::long_term) {
    if (options.longterm == LongTerm::forbid) return refuse(r, EOPNOTSUPP);
    if (options.longterm == LongTerm::lease && !covered(r.holder, r.range)) {
      return refuse(r, EPERM);
    }
  }
  std::uint64_t used = r.range.count;
  for (const Pin& pin : pins) {
    if (pin.requester.uid == r.requester.uid) used += pin.blocks.size();
  }
  const std::uint64_t limit = options.pin_limit.value / kBlockSize;
  if (limit != 0 && used > limit) return refuse(r, ENOMEM);
  if (const auto stopped_there = pass_fences(r)) return *stopped_there;
  if (r.has_waited) post(GateEvent::Kind::resumed, r);
  pins.push_back({.number = r.number,
                  .holder = r.holder,
                  .requester = r.requester,
                  .range = r.range,
                  .kind = r.kind,
                  .blocks = blocks_of(r.range)});
  post(GateEvent::Kind::pin, r.range, r.requester.process);
  return {};
}

void GateModel::unpin(int number) {
  const Pin gone = *find_pin(number);
  std::erase_if(pins, [&](const Pin& pin) { return pin.number == number; });
  post(GateEvent::Kind::unpin, gone.range, gone.requester.process);
  for (const Block block : gone.blocks) {
    if (owner[block] == Owner::limbo && counts(block).none()) {
      owner[block] = Owner::free;
      freed.push_back(block);
      ++left_limbo;
    }
  }
  wake_if([&](const Request& r) {
    return r.what == What::detach && !r.in_the_way.empty() &&
           pinned(r.in_the_way, r.awaited, r.requester.process).empty();
  });
}

// --- leases ---

GateModel::Answer GateModel::lease(int number) {
  Request& r = *find_request(number);
  r.parked = false;
  if (stopped) return refuse(r, EINTR);
  if (const auto stopped_there = pass_fences(r)) return *stopped_there;
  for (const Lease& other : leases) {
    if (other.holder != r.holder && (other.exclusive || r.exclusive) &&
        overlap(other.range, r.range)) {
      return refuse(r, EAGAIN);
    }
  }
  if (r.has_waited) post(GateEvent::Kind::resumed, r);
  leases.push_back({r.number, r.holder, r.requester, r.range, r.exclusive});
  post(GateEvent::Kind::lease, r.range, r.requester.process);
  return {};
}

// Who waits for a lease looks again when it goes or shrinks.
void GateModel::release_breaks(int lease, std::vector<int>& now_awake) {
  for (Request& r : requests) {
    if (r.breaking.erase(lease) > 0) wake(r, now_awake);
  }
  std::erase_if(asked, [&](const News& news) { return news.lease == lease; });
}

void GateModel::remove_lease(int number) {
  const Lease gone = *find_lease(number);
  std::erase_if(leases, [&](const Lease& lease) { return lease.number == number; });
  post(GateEvent::Kind::unlease, gone.range, gone.requester.process);
  std::vector<int> now_awake;
  release_breaks(number, now_awake);
  note(std::move(now_awake));
}

void GateModel::revoke(const Request& r, const Lease& lease) {
  remove_lease(lease.number);
  revoked.push_back({LeaseNews::Kind::revoked, lease.number, lease.holder, lease.range.first,
                     lease.range.count, r.requester.process, kNever});
  told.push_back(lease.holder);
}

int GateModel::unlease(int number) {
  if (needed(*find_lease(number), 0, 0)) return EBUSY;
  remove_lease(number);
  return 0;
}

int GateModel::shrink(int number, std::uint64_t first, std::uint64_t count) {
  Lease& lease = *find_in(leases, number);
  const Range to{lease.range.inode, first, count};
  if (count == 0 || !lease.range.has(first) || !lease.range.has(first + count - 1)) return EINVAL;
  if (needed(lease, first, count)) return EBUSY;
  lease.range = to;
  post(GateEvent::Kind::lease, to, lease.requester.process);
  std::vector<int> now_awake;
  release_breaks(number, now_awake);
  note(std::move(now_awake));
  return 0;
}

// Its process has ended: what it has pinned stays, and is nobody's own from now on.
void GateModel::leave(int holder) {
  for (Pin& pin : pins) {
    if (pin.holder == holder) pin.left = true;
  }
  for (const Lease& lease : std::vector<Lease>(leases)) {
    if (lease.holder == holder) remove_lease(lease.number);
  }
  const auto mine = [&](const News& news) { return news.holder == holder; };
  std::erase_if(asked, mine);
  std::erase_if(revoked, mine);
}

void GateModel::drop(int holder) {
  for (const Pin& pin : std::vector<Pin>(pins)) {
    if (pin.holder == holder) unpin(pin.number);
  }
  for (const Lease& lease : std::vector<Lease>(leases)) {
    if (lease.holder == holder) remove_lease(lease.number);
  }
  const auto mine = [&](const News& news) { return news.holder == holder; };
  std::erase_if(asked, mine);
  std::erase_if(revoked, mine);
}

}  // namespace daxfs::test
