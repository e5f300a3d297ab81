// What the threads do.
#include "tests/unit/gate_world.h"

#include <algorithm>
#include <condition_variable>

namespace daxfs::test {

GateWorld::GateWorld()
    : gate_({.short_timeout_ms = 5},
            {.free_blocks = [this](auto ranges) { give_back(ranges); },
             // Nobody repeats anything, so nothing is kept for that.
             .processes = {.mark = {}, .has_ended = [](const ProcessMark&) { return true; }},
             .now = [this] { return start_ + std::chrono::milliseconds(elapsed_ms_.load()); }}) {
  for (HolderRef& slot : slots_) {
    slot = std::make_shared<Holder>();
    slot->id = gate_.new_holder();
  }
  for (std::size_t i = 0; i < kPoolBlocks; ++i) free_.push_back(i);
}

void GateWorld::work(unsigned seed, int steps) {
  std::mt19937 random(seed);
  std::vector<std::weak_ptr<Request>> recent;
  for (int i = 0; i < steps; ++i) {
    const std::size_t slot = random() % kHolders;
    switch (random() % 16) {
      case 0:
      case 1:
      case 2:
        write(random() % kFiles, random() % kFileBlocks);
        break;
      case 3:
        unpin_one(slot);
        break;
      case 4:
      case 5:
        read_news(slot, random() % 2 == 0);
        break;
      case 6:
        if (random() % 2 == 0) close(slot);
        break;
      case 7:
        // Time passes, and somebody has the gate look at its clock.
        elapsed_ms_ += 1 + static_cast<std::int64_t>(random() % 8);
        gate_.rejudge(InodeNumber{random() % kFiles});
        break;
      case 8:
        if (!recent.empty()) {
          if (const RequestRef request = recent[random() % recent.size()].lock()) {
            gate_.cancel(request->ticket);
          }
        }
        if (random() % 8 == 0) switch_options(random);
        break;
      default:
        recent.push_back(begin(random));
        attempt(recent.back().lock());
    }
  }
}

void GateWorld::give_back(std::span<const PoolRange> ranges) {
  const std::lock_guard lock(pool_mutex_);
  for (const PoolRange& range : ranges) {
    for (auto b = range.start.value; b < range.end().value; ++b) {
      if (owner_[b] != Owner::nobody) complain("a block is freed that is somebody's");
      if (held_[b] != 0) complain("a block is freed under a pin");
      owner_[b] = Owner::free;
      free_.push_back(b);
    }
  }
}

void GateWorld::write(std::size_t number, std::size_t first) {
  File& file = files_[number];
  const std::unique_lock lock(file.mutex);
  for (std::size_t at = first; at < std::min(first + 6, kFileBlocks); ++at) {
    if (file.map[at]) continue;
    const std::lock_guard pool(pool_mutex_);
    if (free_.empty()) return;
    std::swap(free_[at % free_.size()], free_.back());
    const std::size_t block = free_.back();
    free_.pop_back();
    if (owner_[block] != Owner::free) complain("a block is given out twice");
    if (held_[block] != 0) complain("a block is reused under a pin");
    owner_[block] = Owner::file;
    file.map[at] = block;
  }
}

GateWorld::HolderRef GateWorld::holder(std::size_t slot) {
  const std::lock_guard lock(slots_mutex_);
  return slots_[slot];
}

GateWorld::RequestRef GateWorld::begin(std::mt19937& random) {
  const auto request = std::make_shared<Request>();
  const unsigned dice = random() % 8;
  request->what = dice < 3 ? What::detach : dice < 6 ? What::pin : What::lease;
  const std::size_t first = random() % kFileBlocks;
  request->range = {random() % kFiles, first,
                    1 + random() % std::min<std::size_t>(8, kFileBlocks - first)};
  request->process = static_cast<pid_t>(1 + random() % 3);
  request->holder = holder(random() % kHolders);
  if (request->what == What::detach && random() % 2 == 0) request->holder = nullptr;
  request->kind = random() % 2 == 0 ? PinKind::short_term : PinKind::long_term;
  request->nowait = random() % 8 == 0;
  request->exclusive = random() % 8 == 0;
  // In one hold of the lock, so that the numbers are in order of arrival.
  const std::lock_guard lock(open_mutex_);
  request->number = ++last_number_;
  request->ticket = gate_.begin([this, request] { attempt(request); });
  open_[request->number] = request;
  return request;
}

// What the filesystem does for each request, and again for each retry.
void GateWorld::attempt(const RequestRef& request) {
  {
    const std::lock_guard lock(open_mutex_);
    attempts_.push_back(request->number);
  }
  const bool done = request->what == What::detach ? detach(*request)
                    : request->what == What::pin  ? pin(*request)
                                                  : lease(*request);
  if (!done) {
    ++seen_.parked;
    return;
  }
  {
    const std::lock_guard lock(open_mutex_);
    fences_.erase(request->number);
    open_.erase(request->number);
  }
  gate_.end(request->ticket);
}

std::vector<PoolRange> GateWorld::ranges(const File& file, const Range& range) {
  std::vector<PoolRange> result;
  for (std::size_t at = range.first; at < range.first + range.count; ++at) {
    if (file.map[at]) result.push_back({PoolBlock(*file.map[at]), BlockCount(1)});
  }
  return result;
}

bool GateWorld::detach(const Request& request) {
  const Range& range = request.range;
  File& file = files_[range.file];
  const std::unique_lock lock(file.mutex);
  const std::vector<PoolRange> leaving = ranges(file, range);
  const auto exclusive = exclusive_over(range, request.holder.get());
  const auto through = request.holder ? std::optional(request.holder->id) : std::nullopt;
  const auto verdict = gate_.judge(request.ticket, {.holder = through,
                                                    .inode = InodeNumber{range.file},
                                                    .range = range.blocks(),
                                                    .blocks = leaving,
                                                    .requester = {request.process, 0},
                                                    .policy = file.policy});
  if (verdict == Verdict::parked) {
    // The lock of the file is still held, so it cannot have been tried again and ended.
    const std::lock_guard open(open_mutex_);
    fences_[request.number] = range;
    return false;
  }
  if (!verdict) return true;
  none_stayed("a detach passes an exclusive lease", exclusive,
              exclusive_over(range, request.holder.get()));
  {
    const std::lock_guard pool(pool_mutex_);
    for (const PoolRange& blocks : leaving) {
      if (owner_[blocks.start.value] != Owner::file) complain("a block leaves a file twice");
      owner_[blocks.start.value] = Owner::nobody;
    }
  }
  for (std::size_t at = range.first; at < range.first + range.count; ++at) file.map[at].reset();
  gate_.detached(request.ticket, leaving);
  ++seen_.detached;
  return true;
}

bool GateWorld::pin(const Request& request) {
  Holder& holder = *request.holder;
  const std::shared_lock open(holder.mutex);
  if (holder.closed) return true;
  File& file = files_[request.range.file];
  const std::shared_lock lock(file.mutex);
  const std::vector<PoolRange> where = ranges(file, request.range);
  const std::set<int> fences = fences_before(request);
  const auto id = gate_.pin(request.ticket, {.holder = holder.id,
                                             .inode = InodeNumber{request.range.file},
                                             .offset = request.range.offset(),
                                             .length = request.range.length(),
                                             .blocks = where,
                                             .requester = {request.process, 0},
                                             .kind = request.kind,
                                             .nowait = request.nowait});
  if (id && !*id) return false;
  if (!id) return true;
  none_stayed("a pin passes an older fence", fences, fences_before(request));
  for (const PoolRange& range : where) ++held_[range.start.value];
  ++seen_.pinned;
  const std::lock_guard table(holder.table);
  holder.pins[**id] = {where, request.process};
  return true;
}

bool GateWorld::lease(const Request& request) {
  Holder& holder = *request.holder;
  const std::shared_lock open(holder.mutex);
  if (holder.closed) return true;
  const std::set<int> fences = fences_before(request);
  const auto exclusive = exclusive_over(request.range, &holder);
  const std::lock_guard table(holder.table);
  const auto id = gate_.lease(request.ticket, {.holder = holder.id,
                                               .inode = InodeNumber{request.range.file},
                                               .offset = request.range.offset(),
                                               .length = request.range.length(),
                                               .requester = {request.process, 0},
                                               .exclusive = request.exclusive,
                                               .nowait = request.nowait});
  if (id && !*id) return false;
  if (!id) return true;
  none_stayed("a lease passes an older fence", fences, fences_before(request));
  none_stayed("a lease passes an exclusive one", exclusive, exclusive_over(request.range, &holder));
  ++seen_.leased;
  const Lease lease{request.range, request.process, request.exclusive};
  holder.leases[**id] = lease;
  if (!request.exclusive) return true;
  const std::lock_guard lock(open_mutex_);
  exclusive_[**id] = {lease, &holder};
  return true;
}

void GateWorld::unpin_one(std::size_t slot) {
  const HolderRef of = holder(slot);
  const std::shared_lock open(of->mutex);
  PinId id;
  {
    const std::lock_guard table(of->table);
    if (of->closed || of->pins.empty()) return;
    const auto pin = of->pins.begin();
    id = pin->first;
    for (const PoolRange& range : pin->second.blocks) --held_[range.start.value];
    of->pins.erase(pin);
  }
  if (!gate_.unpin(of->id, id)) complain("a pin is not there");
}

// A holder that is asked gives way, or does not and loses its lease when the time is up.
void GateWorld::read_news(std::size_t slot, bool give_way) {
  const HolderRef of = holder(slot);
  const std::shared_lock open(of->mutex);
  if (of->closed) return;
  const std::lock_guard table(of->table);
  const auto news = gate_.next_news(of->id);
  if (!news) return;
  const auto lease = of->leases.find(news->lease);
  if (lease == of->leases.end()) return complain("news of a lease that is not there");
  if (news->kind == LeaseNews::Kind::revoked) {
    ++seen_.revoked;
    if (lease->second.exclusive) complain("an exclusive lease is taken away");
    of->leases.erase(lease);
    return;
  }
  ++seen_.broken;
  if (!give_way || lease->second.exclusive) return;
  // Unless longterm=lease needs it; or it was revoked meanwhile, which the next news will say.
  if (gate_.unlease(of->id, news->lease)) of->leases.erase(lease);
}

void GateWorld::close(std::size_t slot) {
  const HolderRef old = holder(slot);
  const std::unique_lock open(old->mutex);
  if (old->closed) return;
  old->closed = true;
  {
    const std::lock_guard lock(open_mutex_);
    for (const auto& [id, lease] : old->leases) exclusive_.erase(id);
  }
  for (const auto& [id, pin] : old->pins) {
    for (const PoolRange& range : pin.blocks) --held_[range.start.value];
  }
  if (gate_.drop(old->id).size() != old->pins.size()) complain("not all pins are dropped");
  old->pins.clear();
  old->leases.clear();
  const auto fresh = std::make_shared<Holder>();
  fresh->id = gate_.new_holder();
  const std::lock_guard lock(slots_mutex_);
  slots_[slot] = fresh;
}

void GateWorld::switch_options(std::mt19937& random) {
  // `ignore` breaks what is looked for here.
  static constexpr PinPolicy kPolicies[] = {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                                            PinPolicy::breaks};
  if (random() % 2 == 0) {
    const std::size_t number = random() % kFiles;
    const std::unique_lock lock(files_[number].mutex);
    files_[number].policy.reset();
    if (random() % 2 == 0) files_[number].policy = kPolicies[random() % 4];
    return gate_.rejudge(InodeNumber{number});
  }
  gate_.set_options({.pin_policy = kPolicies[1 + random() % 3],
                     .on_timeout = random() % 2 == 0 ? OnTimeout::refuse : OnTimeout::defer,
                     .longterm = random() % 8 == 0 ? LongTerm::lease : LongTerm::allow,
                     .short_timeout_ms = 1 + random() % 20,
                     .wait_timeout_ms = random() % 2 == 0 ? 0 : 1 + random() % 100,
                     .break_timeout_ms = 1 + random() % 100,
                     .limbo_limit = random() % 2 == 0 ? ByteCount(UINT64_MAX)
                                                      : bytes(BlockCount(random() % 20))});
}

std::set<int> GateWorld::fences_before(const Request& request) {
  std::set<int> result;
  const std::lock_guard lock(open_mutex_);
  for (const auto& [number, range] : fences_) {
    if (number < request.number && range.overlaps(request.range)) result.insert(number);
  }
  return result;
}

std::set<LeaseId> GateWorld::exclusive_over(const Range& range, const Holder* except) {
  std::set<LeaseId> result;
  const std::lock_guard lock(open_mutex_);
  for (const auto& [id, entry] : exclusive_) {
    const auto& [lease, of] = entry;
    if (of != except && lease.range.overlaps(range)) result.insert(id);
  }
  return result;
}

// What was there before an answer and still is there after it was there when the answer was given.
template <class Numbers>
void GateWorld::none_stayed(const char* what, const Numbers& before, const Numbers& after) {
  for (const auto& number : before) {
    if (after.contains(number)) complain(what);
  }
}

}  // namespace daxfs::test
