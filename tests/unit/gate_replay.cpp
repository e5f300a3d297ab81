#include "tests/unit/gate_replay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/unit/gate_fixture.h"

namespace daxfs::test {
namespace {

using Model = GateModel;
using Op = GateStep::Op;

constexpr PoolRange kSentinel{PoolBlock(1'000'000), BlockCount(1)};

std::uint64_t number(std::int64_t argument) { return static_cast<std::uint64_t>(argument); }

std::vector<PoolRange> ranges(const std::vector<Model::Block>& blocks) {
  std::vector<PoolRange> result;
  for (const Model::Block block : blocks) {
    if (!result.empty() && result.back().end() == PoolBlock(block)) {
      ++result.back().count.value;
    } else {
      result.push_back({PoolBlock(block), BlockCount(1)});
    }
  }
  return result;
}

std::string in_words(const Model::Answer& answer) {
  if (answer.parked) return "parked";
  return answer.error == 0 ? "done" : strerrorname_np(answer.error);
}

}  // namespace

GateReplay::Impl::Impl()
    : gate({}, {.free_blocks =
                    [this](std::span<const PoolRange> ranges) {
                      for (const PoolRange& range : ranges) {
                        for (auto b = range.start.value; b < range.end().value; ++b) {
                          freed.push_back(b);
                        }
                      }
                    },
                .tell_holder = [this](HolderId holder) { told.push_back(holder); },
                .processes = {.mark = {},
                              .has_ended =
                                  [this](const ProcessMark& process) {
                                    const std::lock_guard lock(mutex);
                                    return ended.contains(process.process);
                                  }},
                .latest =
                    [](const DetachRequest& request, SteadyTime since) {
                      const bool hurried = request.requester.process == Model::kHurried;
                      return hurried ? since + std::chrono::milliseconds(Model::kHurry)
                                     : SteadyTime::max();
                    },
                .events = &recorder,
                .now = [this] { return start + std::chrono::milliseconds(elapsed_ms.load()); }}) {
  const HolderId ours = gate.new_holder();
  const TicketRef ticket = gate.begin([] {});
  const std::vector<PoolRange> where{kSentinel};
  sentinel = **gate.pin(ticket, {.holder = ours,
                                 .inode = InodeNumber{UINT64_MAX},
                                 .offset = {},
                                 .length = ByteCount(kBlockSize),
                                 .blocks = where,
                                 .requester = {kOurs, 99}});
  gate.end(ticket);
  for (std::size_t slot = 0; slot < kHolders; ++slot) new_holder(slot);
}

void GateReplay::Impl::new_holder(std::size_t slot) {
  holder_of[slot] = static_cast<int>(holders.size());
  holders.push_back(gate.new_holder());
}

// Returns when every request that was ready has had its continuation, and time's are ready.
void GateReplay::Impl::settle() {
  if (model.stopped || !wrong.empty()) return;  // stop() has waited for them
  const std::vector<PoolRange> where{kSentinel};
  const auto settled = test::settle(gate, {.inode = InodeNumber{UINT64_MAX},
                                           .range = in_file(0, 1),
                                           .blocks = where,
                                           .requester = {kOurs + 1, 99},
                                           .policy = PinPolicy::wait});
  expect_true("the sentinel parks", settled.parked);
  expect_true(kGateIsStuck, settled.in_time);
}

// --- the steps ---

void GateReplay::Impl::write(std::uint64_t inode, std::uint64_t first, std::uint64_t count,
                             Model::Block block) {
  auto& file = model.files[inode];
  for (auto at = first; at < std::min(first + count, Model::kFileBlocks); ++at, ++block) {
    block %= Model::kPoolBlocks;
    if (file.contains(at) || model.owner[block] != Model::Owner::free) continue;
    model.owner[block] = Model::Owner::file;
    file[at] = block;
  }
}

void GateReplay::Impl::begin(Model::Request request) {
  const int n = request.number;
  if (!model.requests.empty() && model.requests.back().number >= n) return;
  tickets[n] = gate.begin([this, n] {
    const std::lock_guard lock(mutex);
    woken.push_back(n);
  });
  request.place = n;
  model.requests.push_back(std::move(request));
  idle.push_back(n);
}

void GateReplay::Impl::attempt(int request) {
  if (std::erase(idle, request) == 0) return;
  const Model::Request r = *model.find_request(request);
  const std::vector<Model::Block> blocks = model.blocks_of(r.range);
  const std::vector<PoolRange> where = ranges(blocks);
  const Model::Answer expected = r.what == Model::What::detach ? model.judge(request)
                                 : r.what == Model::What::pin  ? model.pin(request)
                                                               : model.lease(request);
  const Model::Answer actual = r.what == Model::What::detach ? judge(r, where)
                               : r.what == Model::What::pin  ? pin(r, where)
                                                             : lease(r);
  if (actual != expected && wrong.empty()) {
    wrong = "answer to " + std::to_string(request) + ": " + in_words(actual) + ", expected " +
            in_words(expected);
  }
  const Model::Request& after = *model.find_request(request);
  if (r.place != after.place) ++seen.repeated;
  if (expected.parked) {
    ++seen.parked;
    if (std::ranges::any_of(model.interrupted, [&](const Model::Remembered& left) {
          return left.request.fence && left.request.place == after.behind;
        })) {
      ++seen.behind_the_interrupted;
    }
    return;
  }
  if (expected.error == 0) ++seen.ahead;
  const bool unpinned = std::all_of(blocks.begin(), blocks.end(),
                                    [&](Model::Block block) { return model.counts(block).none(); });
  if (expected.error == EDEADLK && unpinned) ++seen.waits_for_own_lease;
  model.end(request);
  gate.end(tickets.at(request));
  tickets.erase(request);
}

Model::Answer GateReplay::Impl::judge(const Model::Request& r, std::span<const PoolRange> where) {
  const TicketRef& ticket = tickets.at(r.number);
  const auto holder =
      r.holder < 0 ? std::nullopt : std::optional(holders.at(static_cast<std::size_t>(r.holder)));
  const auto verdict = gate.judge(ticket, {.holder = holder,
                                           .inode = InodeNumber{r.range.inode},
                                           .range = in_file(r.range.first, r.range.count),
                                           .blocks = where,
                                           .requester = r.requester,
                                           .policy = model.own_policy[r.range.inode],
                                           .offset = offset_in(r.range),
                                           .length = length_of(r.range)});
  if (!verdict) return {.error = verdict.error().code};
  if (*verdict == Verdict::parked) return {.error = 0, .parked = true};
  gate.detached(ticket, where);
  return {};
}

Model::Answer GateReplay::Impl::pin(const Model::Request& r, std::span<const PoolRange> where) {
  const auto pin =
      gate.pin(tickets.at(r.number), {.holder = holders.at(static_cast<std::size_t>(r.holder)),
                                      .inode = InodeNumber{r.range.inode},
                                      .offset = offset_in(r.range),
                                      .length = length_of(r.range),
                                      .blocks = where,
                                      .requester = r.requester,
                                      .kind = r.kind,
                                      .nowait = r.nowait});
  if (!pin) return {.error = pin.error().code};
  if (!*pin) return {.error = 0, .parked = true};
  pins[r.number] = **pin;
  return {};
}

Model::Answer GateReplay::Impl::lease(const Model::Request& r) {
  const auto lease =
      gate.lease(tickets.at(r.number), {.holder = holders.at(static_cast<std::size_t>(r.holder)),
                                        .inode = InodeNumber{r.range.inode},
                                        .offset = offset_in(r.range),
                                        .length = length_of(r.range),
                                        .requester = r.requester,
                                        .exclusive = r.exclusive,
                                        .nowait = r.nowait});
  if (!lease) return {.error = lease.error().code};
  if (!*lease) return {.error = 0, .parked = true};
  leases[r.number] = **lease;
  return {};
}

void GateReplay::Impl::unpin(int request) {
  const Model::Pin* pin = model.find_pin(request);
  if (pin == nullptr) return;
  const HolderId holder = holders.at(static_cast<std::size_t>(pin->holder));
  expect_true("nobody unpins another's",
              gate.unpin(HolderId{12345}, pins[request]) == fail(ENOENT));
  model.unpin(request);
  expect_true("unpin", gate.unpin(holder, pins[request]).has_value());
}

void GateReplay::Impl::unlease(int request) {
  const Model::Lease* lease = model.find_lease(request);
  if (lease == nullptr) return;
  const HolderId holder = holders.at(static_cast<std::size_t>(lease->holder));
  const int expected = model.unlease(request);
  const Status status = gate.unlease(holder, leases[request]);
  expect("unlease", status ? 0 : status.error().code, expected);
}

void GateReplay::Impl::shrink(int request, std::uint64_t first, std::uint64_t count) {
  const Model::Lease* lease = model.find_lease(request);
  if (lease == nullptr) return;
  const HolderId holder = holders.at(static_cast<std::size_t>(lease->holder));
  const int expected = model.shrink(request, first, count);
  const Status status = gate.shrink_lease(holder, leases[request], offset_of(FileBlock(first)),
                                          bytes(BlockCount(count)));
  expect("shrink", status ? 0 : status.error().code, expected);
}

void GateReplay::Impl::news(std::size_t slot) {
  const int holder = holder_of[slot];
  const auto expected = model.next_news(holder);
  const auto actual = gate.next_news(holders.at(static_cast<std::size_t>(holder)));
  expect("news", actual.has_value(), expected.has_value());
  if (!actual || !expected) return;
  expect_true("news: its kind", actual->kind == expected->kind);
  expect("news: of which lease", actual->lease.value, leases[expected->lease].value);
  expect("news: from", actual->range.start.value, expected->first);
  expect("news: so many blocks", actual->range.count.value, expected->count);
  expect("news: who asks", actual->process, expected->process);
  const bool limited = expected->deadline != Model::kNever;
  expect("news: whether there is a deadline", actual->deadline.has_value(), limited);
  if (actual->deadline && limited) {
    expect_true("news: the deadline", *actual->deadline == at(expected->deadline));
  }
}

void GateReplay::Impl::close(std::size_t slot, bool interrupt) {
  const int holder = holder_of[slot];
  std::vector<int> open;
  for (const Model::Request& r : model.requests) {
    if (r.holder == holder) open.push_back(r.number);
  }
  if (!open.empty() && !interrupt) return;
  for (const int request : open) cancel(request);
  compare();
  for (const int request : open) attempt(request);
  compare();
  if (interrupt) {
    model.leave(holder);
    gate.leave(holders.at(static_cast<std::size_t>(holder)));
    in_grace.push_back(holder);
  } else {
    drop(holder);
  }
  new_holder(slot);
}

void GateReplay::Impl::grace_over(std::size_t which) {
  if (in_grace.empty()) return;
  const auto leaver = in_grace.begin() + static_cast<std::ptrdiff_t>(which % in_grace.size());
  drop(*leaver);
  in_grace.erase(leaver);
}

void GateReplay::Impl::drop(int holder) {
  std::vector<PinId> expected;
  for (const Model::Pin& pin : model.pins) {
    if (pin.holder == holder) expected.push_back(pins[pin.number]);
  }
  model.drop(holder);
  std::vector<PinId> dropped;
  for (const PinInfo& info : gate.drop(holders.at(static_cast<std::size_t>(holder)))) {
    dropped.push_back(info.id);
  }
  expect_true("what was dropped", dropped == expected);
}

void GateReplay::Impl::cancel(int request) {
  if (model.find_request(request) == nullptr) return;
  model.cancel(request);
  gate.cancel(tickets.at(request));
}

void GateReplay::Impl::options(const std::array<std::int64_t, GateStep::kMostArguments>& a) {
  const GateOptions wanted{
      .pin_policy = static_cast<PinPolicy>(a[0]),
      .on_timeout = static_cast<OnTimeout>(a[1]),
      .longterm = static_cast<LongTerm>(a[2]),
      .short_timeout_ms = number(a[3]),
      .wait_timeout_ms = number(a[4]),
      .break_timeout_ms = number(a[5]),
      .pin_limit = bytes(BlockCount(number(a[6]))),
      .limbo_limit = a[7] < 0 ? ByteCount(UINT64_MAX) : bytes(BlockCount(number(a[7])))};
  model.set_options(wanted);
  gate.set_options(wanted);
}

void GateReplay::Impl::last_close(std::uint64_t inode) {
  const std::vector<PoolRange> where = ranges(model.blocks_of({inode, 0, Model::kFileBlocks}));
  model.last_close(inode);
  gate.detached_unasked(where, InodeNumber{inode}, model.own_policy[inode]);
}

void GateReplay::Impl::carry_out(const GateStep& step) {
  const auto& a = step.arguments;
  const int n = static_cast<int>(a[0]);
  const auto range = [&] {
    const std::uint64_t first = number(a[2]);
    return Model::Range{number(a[1]), first, a[3] == 0 ? UINT64_MAX - first : number(a[3])};
  };
  const Requester requester{static_cast<pid_t>(a[4]),
                            step.op == Op::pin ? static_cast<uid_t>(a[5]) : 0};
  const std::size_t slot = number(a[0]) % kHolders;
  switch (step.op) {
    case Op::write:
      return write(number(a[0]), number(a[1]), number(a[2]), number(a[3]));
    case Op::detach:
      return begin({.number = n,
                    .what = Model::What::detach,
                    .range = range(),
                    .holder = a[5] < 0 ? -1 : holder_of[number(a[5]) % kHolders],
                    .requester = requester});
    case Op::pin:
      return begin({.number = n,
                    .what = Model::What::pin,
                    .range = range(),
                    .holder = holder_of[number(a[6]) % kHolders],
                    .requester = requester,
                    .kind = a[7] != 0 ? PinKind::short_term : PinKind::long_term,
                    .nowait = a[8] != 0});
    case Op::lease:
      return begin({.number = n,
                    .what = Model::What::lease,
                    .range = range(),
                    .holder = holder_of[number(a[5]) % kHolders],
                    .requester = requester,
                    .nowait = a[7] != 0,
                    .exclusive = a[6] != 0});
    case Op::attempt:
      return attempt(n);
    case Op::unpin:
      return unpin(n);
    case Op::unlease:
      return unlease(n);
    case Op::shrink:
      return shrink(n, number(a[1]), number(a[2]));
    case Op::news:
      return news(slot);
    case Op::close:
      return close(slot, false);
    case Op::die:
      return close(slot, true);
    case Op::over:
      return grace_over(number(a[0]));
    case Op::cancel:
      return cancel(n);
    case Op::tick:
      elapsed_ms += a[0];
      return model.advance(number(a[0]));
    case Op::options:
      return options(a);
    case Op::own_policy: {
      const auto policy = a[1] < 0 ? std::nullopt : std::optional(static_cast<PinPolicy>(a[1]));
      model.set_own_policy(number(a[0]), policy);
      return gate.rejudge(InodeNumber{number(a[0])});
    }
    case Op::last_close:
      return last_close(number(a[0]));
    case Op::process: {
      model.end_process(n);
      const std::lock_guard lock(mutex);
      ended = model.ended;
      return;
    }
    case Op::stop:
      model.stop();
      return gate.stop();
  }
}

GateReplay::GateReplay() : impl_(std::make_unique<Impl>()) {}
GateReplay::~GateReplay() { impl_->gate.stop(); }

std::string GateReplay::apply(const GateStep& step) {
  impl_->carry_out(step);
  impl_->compare();
  return impl_->wrong;
}

const GateModel& GateReplay::model() const { return impl_->model; }
const std::vector<int>& GateReplay::idle() const { return impl_->idle; }
std::int64_t GateReplay::slot_of(int holder) const {
  const auto& slots = impl_->holder_of;
  const auto found = std::find(slots.begin(), slots.end(), holder);
  return found == slots.end() ? -1 : found - slots.begin();
}
std::size_t GateReplay::in_grace() const { return impl_->in_grace.size(); }
const GateReplay::Seen& GateReplay::seen() const { return impl_->seen; }

}  // namespace daxfs::test
