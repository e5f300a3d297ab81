// What the gate tells of requests that wait: the list, and the histogram of their waiting times.
#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

TEST_CASE("gate: who waits is listed in the order of arrival, until it goes ahead") {
  GateFixture f({.pin_policy = PinPolicy::wait, .wait_timeout_ms = 60'000});
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 5)}, 2);
  const auto before = Clock::now();
  const TicketRef first = f.begin(1);
  const TicketRef second = f.begin(2);
  CHECK(f.judge(second, {blocks(0, 20)}) == Verdict::parked);
  CHECK(f.judge(first, {blocks(0, 20)}) == Verdict::parked);
  const auto waiting = f.gate.waiting_after(0, 10);
  REQUIRE(waiting.size() == 2);
  CHECK(waiting[0].arrival < waiting[1].arrival);
  for (const Gate::WaitingInfo& one : waiting) {
    CHECK(one.wish == Wish::punch);
    CHECK(one.about.inode == InodeNumber{1});
    CHECK(one.about.policy == PinPolicy::wait);
    CHECK(one.since >= before);
    CHECK(one.since <= Clock::now());
    CHECK(one.deadline >= before + std::chrono::seconds(60));
    CHECK(one.deadline <= Clock::now() + std::chrono::seconds(60));
  }
  // In pages.
  CHECK(f.gate.waiting_after(0, 1).at(0).arrival == waiting[0].arrival);
  CHECK(f.gate.waiting_after(waiting[0].arrival, 10).at(0).arrival == waiting[1].arrival);
  CHECK(f.gate.waiting_after(waiting[1].arrival, 10).empty());
  CHECK(f.gate.unpin(holder, pin));
  CHECK(f.woken.next() == 1);
  CHECK(f.woken.next() == 2);
  CHECK(f.gate.waiting_after(0, 10).empty());
  f.gate.end(first);
  f.gate.end(second);
}

TEST_CASE("gate: how long requests have waited is counted by policy, whatever came of them") {
  GateFixture f({.pin_policy = PinPolicy::wait, .wait_timeout_ms = 20});
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 5)}, 2);
  const auto count = [&](PinPolicy policy) {
    const WaitTimes times = f.gate.wait_times();
    std::uint64_t all = 0;
    for (const std::uint64_t one : times.of(policy).counts) all += one;
    return all;
  };
  const TicketRef refused = f.begin(1);
  CHECK(f.judge(refused, {blocks(0, 20)}) == Verdict::parked);
  CHECK(count(PinPolicy::wait) == 0);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(refused, {blocks(0, 20)}) == fail(ETXTBSY));
  f.gate.end(refused);
  CHECK(count(PinPolicy::wait) == 1);
  const WaitTimes once = f.gate.wait_times();
  CHECK(once.of(PinPolicy::wait).counts[0] == 0);  // longer than a millisecond
  CHECK(once.of(PinPolicy::wait).counts[1] == 0);
  CHECK(once.of(PinPolicy::wait).sum >= milliseconds(20));

  const TicketRef resumed = f.begin(2);
  CHECK(f.judge(resumed, {blocks(0, 20)}) == Verdict::parked);
  CHECK(f.gate.unpin(holder, pin));
  CHECK(f.woken.next() == 2);
  CHECK(f.judge(resumed, {blocks(0, 20)}) == Verdict::proceed);
  const std::vector<PoolRange> all{blocks(0, 20)};
  f.gate.detached(resumed, all);
  f.gate.end(resumed);
  CHECK(count(PinPolicy::wait) == 2);
  CHECK(count(PinPolicy::refuse) == 0);

  // Who need not wait is not counted.
  const TicketRef free = f.begin(3);
  CHECK(f.judge(free, {blocks(40, 1)}) == Verdict::proceed);
  f.gate.detached(free, std::vector<PoolRange>{blocks(40, 1)});
  f.gate.end(free);
  CHECK(count(PinPolicy::wait) == 2);
}
