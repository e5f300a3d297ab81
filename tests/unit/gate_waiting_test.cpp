// Requests that wait at the gate: for whom, how long, and how it ends.
#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

TEST_CASE("gate: a detach waits for short-term pins, and only for them") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 5)}, 2, PinKind::short_term);
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(0, 20)}) == Verdict::parked);
  CHECK(f.gate.totals().waiting == 1);
  CHECK(f.freed().empty());
  CHECK(f.gate.unpin(holder, pin));
  CHECK(f.woken.next() == 1);
  CHECK(f.gate.totals().waiting == 0);
  CHECK(f.judge(ticket, {blocks(0, 20)}) == Verdict::proceed);
  const std::vector<PoolRange> all{blocks(0, 20)};
  f.gate.detached(ticket, all);
  f.gate.end(ticket);
  CHECK(f.freed() == numbers({blocks(0, 20)}));
}

TEST_CASE("gate: short-term pins past short_timeout count as long-term") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore}) {
    GateFixture f({.pin_policy = policy, .short_timeout_ms = 50});
    const HolderId holder = f.gate.new_holder();
    f.pinned(holder, {blocks(10, 5)}, 2, PinKind::short_term);
    const TicketRef ticket = f.begin(1);
    const std::vector<PoolRange> all{blocks(0, 20)};
    const auto start = Clock::now();
    CHECK(f.judge(ticket, all) == Verdict::parked);
    CHECK(f.woken.next() == 1);
    CHECK(Clock::now() - start >= milliseconds(50));
    const Result<Verdict> verdict = f.judge(ticket, all);
    if (policy == PinPolicy::refuse) {
      CHECK(verdict == fail(ETXTBSY));
    } else {
      CHECK(verdict == Verdict::proceed);
      f.gate.detached(ticket, all);
      CHECK(f.gate.totals().limbo == BlockCount(policy == PinPolicy::defer ? 5 : 0));
      CHECK(f.freed().size() == (policy == PinPolicy::defer ? 15 : 20));
    }
    f.gate.end(ticket);
    f.gate.drop(holder);
    CHECK(f.gate.totals().limbo == BlockCount(0));
  }
}

TEST_CASE("gate: short_timeout runs from a request's first judgement") {
  GateFixture f({.short_timeout_ms = 200});
  const HolderId holder = f.gate.new_holder();
  const TicketRef older = f.begin(1);
  const PinId first = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef ticket = f.begin(2);
  const auto start = Clock::now();
  CHECK(f.judge(ticket, {blocks(10, 2)}) == Verdict::parked);
  // Another short pin takes the first one's place; the fence lets it, being older.
  CHECK(granted(f.pin(older, holder, {blocks(11, 1)}, 2, PinKind::short_term)));
  f.gate.end(older);
  CHECK(f.gate.unpin(holder, first));
  CHECK(f.woken.next() == 2);
  // Now or when the options change, there is a new deadline, but of the old start.
  Result<Verdict> verdict = f.judge(ticket, {blocks(10, 2)});
  f.gate.set_options({.short_timeout_ms = 300});
  while (verdict == Verdict::parked) {
    CHECK(f.woken.next() == 2);
    verdict = f.judge(ticket, {blocks(10, 2)});
  }
  CHECK(verdict == fail(ETXTBSY));
  CHECK(Clock::now() - start >= milliseconds(200));
  // For good, even if the administrator now grants more time.
  f.gate.set_options({.short_timeout_ms = kHour});
  CHECK(f.judge(ticket, {blocks(10, 2)}) == fail(ETXTBSY));
  f.gate.end(ticket);
}

TEST_CASE("gate: a short_timeout of 0, and one without end") {
  GateFixture f({.short_timeout_ms = 0});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  CHECK(f.punch({blocks(10, 1)}) == fail(ETXTBSY));
  f.gate.set_options({.short_timeout_ms = UINT64_MAX});
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::parked);
  f.gate.drop(holder);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::proceed);
  f.gate.end(ticket);
}

TEST_CASE("gate: who would wait only for himself fails with EDEADLK") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const HolderId other = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 2)}, 1, PinKind::short_term);
  f.pinned(other, {blocks(14, 1)}, 1, PinKind::short_term);
  CHECK(f.punch({blocks(0, 20)}, 1) == fail(EDEADLK));
  CHECK(f.gate.totals().waiting == 0);

  // Someone else's pin on one of the same blocks: worth waiting for, until it goes.
  const PinId foreign = f.pinned(other, {blocks(11, 1)}, 2, PinKind::short_term);
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(0, 20)}, 1) == Verdict::parked);
  CHECK(f.gate.unpin(other, foreign));
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(0, 20)}, 1) == fail(EDEADLK));
  f.gate.end(ticket);

  // Nobody knows who process 0 is.
  const HolderId stranger = f.gate.new_holder();
  f.pinned(stranger, {blocks(50, 1)}, 0, PinKind::short_term);
  const TicketRef unknown = f.begin(2);
  CHECK(f.judge(unknown, {blocks(50, 1)}, 0) == Verdict::parked);
  f.gate.drop(stranger);
  CHECK(f.woken.next() == 2);
  f.gate.end(unknown);
}

TEST_CASE("gate: a policy that parks waits for long-term pins") {
  GateFixture f({.pin_policy = PinPolicy::wait, .short_timeout_ms = kHour});
  const HolderId a = f.gate.new_holder();
  const HolderId b = f.gate.new_holder();
  const PinId one = f.pinned(a, {blocks(10, 5)}, 2);
  const PinId two = f.pinned(b, {blocks(18, 1)}, 3);
  CHECK(f.punch({blocks(10, 5)}, 2) == fail(EDEADLK));

  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(0, 12), blocks(15, 5)}) == Verdict::parked);
  CHECK(f.gate.unpin(a, one));
  f.settle();
  CHECK(f.woken.none());  // the other one is still there
  CHECK(f.gate.unpin(b, two));
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(0, 12), blocks(15, 5)}) == Verdict::proceed);
  f.gate.end(ticket);
}

TEST_CASE("gate: a policy's wait ends like on_timeout") {
  for (const OnTimeout on_timeout : {OnTimeout::refuse, OnTimeout::defer}) {
    Gate gate({.pin_policy = PinPolicy::wait, .on_timeout = on_timeout, .wait_timeout_ms = 80},
              {.free_blocks = [](auto) {}});
    Woken woken;
    const HolderId holder = gate.new_holder();
    const std::vector<PoolRange> block{blocks(10, 1)};
    const TicketRef pin = gate.begin([] {});
    REQUIRE(gate.pin(pin, {.holder = holder,
                           .inode = InodeNumber{1},
                           .offset = FileOffset(0),
                           .length = ByteCount(4096),
                           .blocks = block,
                           .requester = {2, 0}}));
    gate.end(pin);
    const TicketRef ticket = gate.begin([&] { woken.push(1); });
    const DetachRequest request{
        .inode = InodeNumber{1}, .range = in_file(0, 1), .blocks = block, .requester = {1, 0}};
    const auto start = Clock::now();
    CHECK(gate.judge(ticket, request) == Verdict::parked);
    // Judged in between: the time goes on from where it was.
    gate.set_options(gate.options());
    CHECK(woken.next() == 1);
    CHECK(gate.judge(ticket, request) == Verdict::parked);
    CHECK(woken.next() == 1);
    CHECK(Clock::now() - start >= milliseconds(80));
    const Result<Verdict> verdict = gate.judge(ticket, request);
    if (on_timeout == OnTimeout::refuse) {
      CHECK(verdict == fail(ETXTBSY));
    } else {
      CHECK(verdict == Verdict::proceed);
      gate.detached(ticket, block);
      CHECK(gate.totals().limbo == BlockCount(1));
    }
    gate.end(ticket);
    gate.stop();
  }
}

TEST_CASE("gate: a parked detach is not woken while an older request's pin is in its way") {
  for (const std::uint64_t second : {11u, 20u}) {  // in the same piece as the first, in another
    GateFixture f;
    const HolderId holder = f.gate.new_holder();
    const TicketRef older = f.begin(1);
    const PinId a = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
    const PinId b = f.pinned(holder, {blocks(second, 1)}, 2, PinKind::short_term);
    const TicketRef detach = f.begin(2);
    REQUIRE(f.judge(detach, {blocks(0, 30)}) == Verdict::parked);
    CHECK(f.gate.unpin(holder, a));
    const auto again = f.pin(older, holder, {blocks(10, 1)}, 2, PinKind::short_term);
    REQUIRE(granted(again));
    f.gate.end(older);
    CHECK(f.gate.unpin(holder, b));
    f.settle();
    CHECK(f.woken.none());
    CHECK(f.gate.unpin(holder, **again));
    CHECK(f.woken.next() == 2);
    f.gate.end(detach);
  }
}

TEST_CASE("gate: a parked detach does not wait for pins on what another has taken away") {
  GateFixture f({.pin_policy = PinPolicy::wait});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 2), blocks(30, 1)}, 2);
  const TicketRef same = f.begin(1);
  const TicketRef elsewhere = f.begin(2);
  REQUIRE(f.judge(same, {blocks(11, 1)}) == Verdict::parked);
  REQUIRE(f.judge(elsewhere, {blocks(30, 1)}) == Verdict::parked);
  // As one does whose time is up, under on_timeout=defer.
  const TicketRef other = f.begin(3);
  const std::vector<PoolRange> taken{blocks(10, 2)};
  REQUIRE(f.gate.judge(other, {.inode = InodeNumber{1},
                               .range = in_file(10, 2),
                               .blocks = taken,
                               .requester = {1, 0},
                               .policy = PinPolicy::defer}) == Verdict::proceed);
  f.gate.detached(other, taken);
  f.gate.end(other);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(same, {}) == Verdict::proceed);
  f.gate.end(same);
  f.settle();
  CHECK(f.woken.none());
  f.gate.end(elsewhere);
}

TEST_CASE("gate: a parked request that tries again unasked still waits once") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pinned = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  const TicketRef pin = f.begin(2);
  for (int i = 0; i < 2; ++i) {
    CHECK(f.judge(detach, {blocks(10, 1)}) == Verdict::parked);
    CHECK(parked(f.pin(pin, holder, {blocks(10, 1)}, 3)));
    CHECK(f.gate.totals().waiting == 2);
  }
  CHECK(f.gate.unpin(holder, pinned));
  CHECK(f.woken.next() == 1);
  f.gate.end(detach);
  CHECK(f.woken.next() == 2);
  f.gate.end(pin);
  f.settle();
  CHECK(f.woken.none());
}

TEST_CASE("gate: cancelling a parked request wakes it, and it fails with EINTR") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::parked);
  f.gate.cancel(ticket);
  f.gate.cancel(ticket);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == fail(EINTR));
  CHECK(f.gate.unpin(holder, pin));
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::proceed);  // the way is clear
  f.gate.end(ticket);
  f.settle();
  CHECK(f.woken.none());
}

TEST_CASE("gate: a request that ends while it is parked is not woken") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::parked);
  f.gate.end(ticket);
  CHECK(f.gate.totals().waiting == 0);
  CHECK(f.gate.unpin(holder, pin));
  f.settle();
  CHECK(f.woken.none());
}

TEST_CASE("gate: dropping a holder wakes who waits for its pins") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  for (std::uint64_t i = 0; i < 1000; ++i) {
    f.pinned(holder, {blocks(2 * i, 1)}, 2, PinKind::short_term);
  }
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(0, 2000)}) == Verdict::parked);
  CHECK(f.gate.drop(holder).size() == 1000);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(0, 2000)}) == Verdict::proceed);
  f.gate.end(ticket);
}

TEST_CASE("gate: those who wait for one pin are woken in the order in which they came") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 10)}, 2, PinKind::short_term);
  const PinId elsewhere = f.pinned(holder, {blocks(100, 1)}, 2, PinKind::short_term);
  std::vector<TicketRef> tickets;
  for (int i = 0; i < 100; ++i) tickets.push_back(f.begin(i));
  const TicketRef other = f.begin(1000);
  CHECK(f.judge(other, {blocks(100, 1)}) == Verdict::parked);
  // Parked in another order, over different blocks of the pin.
  for (int i = 99; i >= 0; --i) {
    const auto block = static_cast<std::uint64_t>(10 + (i * 7) % 10);
    REQUIRE(f.judge(tickets[static_cast<std::size_t>(i)], {blocks(block, 1)}) == Verdict::parked);
  }
  CHECK(f.gate.totals().waiting == 101);
  CHECK(f.gate.unpin(holder, pin));
  for (int i = 0; i < 100; ++i) REQUIRE(f.woken.next() == i);
  f.settle();
  CHECK(f.woken.none());
  CHECK(f.gate.totals().waiting == 1);
  for (const TicketRef& ticket : tickets) f.gate.end(ticket);
  CHECK(f.gate.unpin(holder, elsewhere));
  CHECK(f.woken.next() == 1000);
  f.gate.end(other);
}

TEST_CASE("gate: continuations may do everything, end their own request too") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const std::vector<PoolRange> all{blocks(10, 4)};
  const PinId pin = f.pinned(holder, all, 2, PinKind::short_term);
  // As the filesystem does it: the request owns its continuation, and the continuation the request.
  struct Request {
    TicketRef ticket;
    std::vector<std::uint64_t> bulk = std::vector<std::uint64_t>(100, 42);
  };
  Woken done;
  auto request = std::make_shared<Request>();
  std::weak_ptr<Request> watch = request;
  const auto attempt = [&f, &done, &all](const std::shared_ptr<Request>& r) {
    const Result<Verdict> verdict = f.judge(r->ticket, all);
    if (verdict == Verdict::parked) return;
    if (verdict == Verdict::proceed) f.gate.detached(r->ticket, all);
    f.gate.end(r->ticket);
    done.push(static_cast<int>(r->bulk[50]));
  };
  request->ticket = f.gate.begin([attempt, request] { attempt(request); });
  attempt(request);
  CHECK(f.gate.unpin(holder, pin));
  CHECK(done.next() == 42);
  CHECK(f.freed() == numbers({all[0]}));
  request.reset();
  f.settle();
  CHECK(watch.expired());
}

TEST_CASE("gate: stop() ends all waiting") {
  GateFixture f({.pin_policy = PinPolicy::wait, .short_timeout_ms = kHour});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2);
  f.pinned(holder, {blocks(20, 1)}, 2, PinKind::short_term);
  const TicketRef one = f.begin(1);
  const TicketRef two = f.begin(2);
  const TicketRef three = f.begin(3);
  CHECK(f.judge(one, {blocks(10, 1)}) == Verdict::parked);
  CHECK(f.judge(two, {blocks(20, 1)}) == Verdict::parked);
  CHECK(parked(f.pin(three, holder, {blocks(10, 1)}, 5)));
  f.gate.stop();
  CHECK(f.woken.next() == 1);
  CHECK(f.woken.next() == 2);
  CHECK(f.woken.next() == 3);
  CHECK(f.gate.totals().waiting == 0);
  CHECK(f.judge(one, {blocks(10, 1)}) == fail(EINTR));
  CHECK(f.judge(two, {blocks(20, 1)}) == fail(EINTR));
  CHECK(failed(f.pin(three, holder, {blocks(10, 1)}, 5), EINTR));
  for (const TicketRef& ticket : {one, two, three}) f.gate.end(ticket);
}

TEST_CASE("gate: new options judge the parked anew") {
  GateFixture f({.pin_policy = PinPolicy::wait, .short_timeout_ms = kHour});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2);
  const TicketRef ticket = f.begin(1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::parked);
  GateOptions options = f.gate.options();
  options.pin_policy = PinPolicy::defer;
  f.gate.set_options(options);
  CHECK(f.gate.options().pin_policy == PinPolicy::defer);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(ticket, {blocks(10, 1)}) == Verdict::proceed);
  f.gate.end(ticket);
}

TEST_CASE("gate: unpinning wakes only those whose way is clear, among thousands") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  constexpr int kMany = 3'000;
  std::vector<PinId> pins;
  std::vector<TicketRef> tickets;
  for (int i = 0; i < kMany; ++i) {
    const auto block = static_cast<std::uint64_t>(10 * i);
    pins.push_back(f.pinned(holder, {blocks(block, 2)}, 2, PinKind::short_term));
    tickets.push_back(f.begin(i));
    REQUIRE(f.judge(tickets.back(), {blocks(block, 5)}) == Verdict::parked);
  }
  CHECK(f.gate.totals().waiting == kMany);
  for (const int i : {1500, 17, 2999}) {
    CHECK(f.gate.unpin(holder, pins[static_cast<std::size_t>(i)]));
    CHECK(f.woken.next() == i);
    CHECK(f.gate.totals().waiting == static_cast<std::uint64_t>(kMany - 1));
    f.gate.end(tickets[static_cast<std::size_t>(i)]);
    tickets[static_cast<std::size_t>(i)] = f.begin(i);
    pins[static_cast<std::size_t>(i)] =
        f.pinned(holder, {blocks(static_cast<std::uint64_t>(10 * i), 2)}, 2, PinKind::short_term);
    REQUIRE(f.judge(tickets[static_cast<std::size_t>(i)],
                    {blocks(static_cast<std::uint64_t>(10 * i), 5)}) == Verdict::parked);
  }
  CHECK(f.gate.drop(holder).size() == kMany);
  std::set<int> woken;
  while (woken.size() < kMany) {
    const auto next = f.woken.next();
    REQUIRE(next);
    woken.insert(*next);
  }
  for (const TicketRef& ticket : tickets) f.gate.end(ticket);
  f.settle();
  CHECK(f.woken.none());
}
