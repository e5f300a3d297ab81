// Fences: new pins queue behind a detach that waits.
#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

TEST_CASE("fence: pins on the range of a waiting detach queue until it has ended") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId old = f.pinned(holder, {blocks(10, 5)}, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  REQUIRE(f.judge(detach, {blocks(0, 20)}) == Verdict::parked);

  const TicketRef outside = f.begin(2);
  CHECK(granted(f.pin(outside, holder, {blocks(20, 5)}, 3)));
  f.gate.end(outside);
  const TicketRef nowait = f.begin(3);
  CHECK(f.pin(nowait, holder, {blocks(19, 2)}, 3, PinKind::long_term, true).error() ==
        Errno{EAGAIN});
  f.gate.end(nowait);
  const TicketRef pin = f.begin(4);
  CHECK(parked(f.pin(pin, holder, {blocks(19, 2)}, 3)));
  CHECK(f.gate.totals().waiting == 2);

  // The same blocks' numbers in another file are no concern of this fence.
  const TicketRef elsewhere = f.begin(5);
  const std::vector<PoolRange> far{blocks(500, 1)};
  CHECK(granted(f.gate.pin(elsewhere, {.holder = holder,
                                       .inode = InodeNumber{2},
                                       .offset = FileOffset(0),
                                       .length = ByteCount(4096),
                                       .blocks = far,
                                       .requester = {3, 0}})));
  f.gate.end(elsewhere);

  CHECK(f.gate.unpin(holder, old));
  CHECK(f.woken.next() == 1);
  f.settle();
  CHECK(f.woken.none());  // retried, but not ended yet
  const TicketRef late = f.begin(6);
  CHECK(parked(f.pin(late, holder, {blocks(0, 1)}, 3)));
  REQUIRE(f.judge(detach, {blocks(0, 20)}) == Verdict::proceed);
  f.settle();
  CHECK(f.woken.none());
  f.gate.end(detach);
  CHECK(f.woken.next() == 4);
  CHECK(f.woken.next() == 6);
  CHECK(granted(f.pin(pin, holder, {blocks(19, 2)}, 3)));
  CHECK(granted(f.pin(late, holder, {blocks(0, 1)}, 3)));
  f.gate.end(pin);
  f.gate.end(late);
}

TEST_CASE("fence: holders who overlap in time do not starve a detach") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  PinId current = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  REQUIRE(f.judge(detach, {blocks(10, 1)}) == Verdict::parked);
  const TicketRef next = f.begin(2);
  CHECK(parked(f.pin(next, holder, {blocks(10, 1)}, 2, PinKind::short_term)));
  CHECK(f.gate.unpin(holder, current));
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, {blocks(10, 1)}) == Verdict::proceed);
  f.gate.end(detach);
  CHECK(f.woken.next() == 2);
  f.gate.end(next);
}

TEST_CASE("fence: a pin that came earlier passes") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef before = f.begin(1);
  const TicketRef detach = f.begin(2);
  REQUIRE(f.judge(detach, {blocks(10, 1)}) == Verdict::parked);
  CHECK(granted(f.pin(before, holder, {blocks(10, 1)}, 3, PinKind::short_term)));
  f.gate.end(before);
  f.gate.drop(holder);
  CHECK(f.woken.next() == 2);
  f.gate.end(detach);
}

TEST_CASE("fence: a pin that was parked gets through before detaches that came after it") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId one = f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  f.pinned(holder, {blocks(11, 1)}, 2, PinKind::short_term);
  const TicketRef first = f.begin(1);
  REQUIRE(f.judge(first, {blocks(10, 1)}) == Verdict::parked);
  const TicketRef pin = f.begin(2);
  CHECK(parked(f.pin(pin, holder, {blocks(10, 2)}, 3)));
  const TicketRef second = f.begin(3);
  REQUIRE(f.judge(second, {blocks(11, 1)}) == Verdict::parked);

  CHECK(f.gate.unpin(holder, one));
  CHECK(f.woken.next() == 1);
  f.gate.end(first);
  CHECK(f.woken.next() == 2);
  CHECK(granted(f.pin(pin, holder, {blocks(10, 2)}, 3)));
  f.gate.end(pin);
  f.gate.drop(holder);
  CHECK(f.woken.next() == 3);
  f.gate.end(second);
}

TEST_CASE("fence: a pin behind several detaches waits for all that came before it") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  std::vector<PinId> pins;
  std::vector<TicketRef> detaches;
  for (std::uint64_t i = 0; i < 3; ++i) {
    pins.push_back(f.pinned(holder, {blocks(i, 1)}, 2, PinKind::short_term));
    detaches.push_back(f.begin(static_cast<int>(i)));
    REQUIRE(f.judge(detaches[i], {blocks(i, 1)}) == Verdict::parked);
  }
  const TicketRef pin = f.begin(100);
  CHECK(parked(f.pin(pin, holder, {blocks(0, 3)}, 3)));
  // Whichever it hangs behind, it must have met all of them in the end.
  int tries = 0;
  for (const std::size_t i : {1u, 2u, 0u}) {
    CHECK(f.gate.unpin(holder, pins[i]));
    CHECK(f.woken.next() == static_cast<int>(i));
    f.gate.end(detaches[i]);
    f.settle();
    while (!f.woken.none()) {
      REQUIRE(f.woken.next() == 100);
      ++tries;
      const auto result = f.pin(pin, holder, {blocks(0, 3)}, 3);
      CHECK(granted(result) == (i == 0));
    }
  }
  CHECK(tries >= 1);
  CHECK(f.gate.totals().long_pins == 1);
  f.gate.end(pin);
}

TEST_CASE("fence: it goes with a cancelled or refused detach") {
  for (const bool cancel : {true, false}) {
    GateFixture f({.short_timeout_ms = cancel ? kHour : 30});
    const HolderId holder = f.gate.new_holder();
    f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
    const TicketRef detach = f.begin(1);
    REQUIRE(f.judge(detach, {blocks(10, 1)}) == Verdict::parked);
    const TicketRef pin = f.begin(2);
    CHECK(parked(f.pin(pin, holder, {blocks(10, 1)}, 3)));
    if (cancel) f.gate.cancel(detach);
    CHECK(f.woken.next() == 1);
    CHECK(f.judge(detach, {blocks(10, 1)}) == fail(cancel ? EINTR : ETXTBSY));
    f.gate.end(detach);
    CHECK(f.woken.next() == 2);
    CHECK(granted(f.pin(pin, holder, {blocks(10, 1)}, 3)));
    f.gate.end(pin);
  }
}

TEST_CASE("fence: a parked pin can be cancelled") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  REQUIRE(f.judge(detach, {blocks(10, 1)}) == Verdict::parked);
  const TicketRef pin = f.begin(2);
  CHECK(parked(f.pin(pin, holder, {blocks(10, 1)}, 3)));
  f.gate.cancel(pin);
  CHECK(f.woken.next() == 2);
  CHECK(failed(f.pin(pin, holder, {blocks(10, 1)}, 3), EINTR));
  f.gate.end(pin);
  f.gate.drop(holder);
  CHECK(f.woken.next() == 1);
  f.gate.end(detach);
  f.settle();
  CHECK(f.woken.none());
}

TEST_CASE("fence: it moves with its detach, and reaches to the end of all numbers") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const std::vector<PoolRange> block{blocks(10, 1)};
  f.pinned(holder, block, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  const auto judge = [&](std::uint64_t inode, std::uint64_t from) {
    return f.gate.judge(detach, {.inode = InodeNumber{inode},
                                 .range = in_file(from, UINT64_MAX),
                                 .blocks = block,
                                 .requester = {1, 0}});
  };
  REQUIRE(judge(1, 30) == Verdict::parked);
  const TicketRef below = f.begin(2);
  CHECK(granted(f.pin(below, holder, {blocks(29, 1)}, 3)));
  f.gate.end(below);
  const TicketRef pin = f.begin(3);
  CHECK(parked(f.pin(pin, holder, {blocks(1000, 1)}, 3)));
  // The name that the rename replaces now belongs to another file.
  f.gate.set_options(f.gate.options());
  CHECK(f.woken.next() == 1);
  REQUIRE(judge(2, 0) == Verdict::parked);
  CHECK(f.woken.next() == 3);
  CHECK(granted(f.pin(pin, holder, {blocks(1000, 1)}, 3)));
  f.gate.end(pin);
  f.gate.end(detach);
}
