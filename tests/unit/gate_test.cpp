// The gate's rules for requests that are answered at once.
#include "lease/gate.h"

#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

std::vector<PinId> ids(const std::vector<PinInfo>& pins) {
  std::vector<PinId> result;
  for (const PinInfo& pin : pins) result.push_back(pin.id);
  return result;
}

}  // namespace

TEST_CASE("gate: what nobody has pinned is freed at once, whatever the policy") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore}) {
    GateFixture f({.pin_policy = policy});
    f.pinned(f.gate.new_holder(), {blocks(30, 5)}, 2);
    CHECK(f.punch({blocks(20, 10), blocks(5, 2), blocks(35, 1)}) == Verdict::proceed);
    CHECK(f.freed() == numbers({blocks(5, 2), blocks(20, 10), blocks(35, 1)}));
    CHECK(f.punch({}) == Verdict::proceed);
    CHECK(f.freed().empty());
    CHECK(f.gate.totals().limbo == BlockCount(0));
  }
}

TEST_CASE("gate: refuse fails the whole request for one pinned block") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(25, 1)}, 2);
  CHECK(f.punch({blocks(0, 10), blocks(20, 10)}) == fail(ETXTBSY));
  CHECK(f.punch({blocks(20, 10)}, 2) == fail(ETXTBSY));  // it would not wait: no EDEADLK
  CHECK(f.freed().empty());
  CHECK(f.gate.unpin(holder, pin));
  CHECK(f.freed().empty());
  CHECK(f.punch({blocks(0, 10), blocks(20, 10)}) == Verdict::proceed);
  CHECK(f.freed() == numbers({blocks(0, 10), blocks(20, 10)}));
}

TEST_CASE("gate: defer keeps the pinned blocks in limbo until the last unpin") {
  GateFixture f({.pin_policy = PinPolicy::defer});
  const HolderId a = f.gate.new_holder();
  const HolderId b = f.gate.new_holder();
  const PinId pin_a = f.pinned(a, {blocks(10, 10)}, 2);
  const PinId pin_b = f.pinned(b, {blocks(15, 10)}, 3);
  CHECK(f.punch({blocks(0, 30)}) == Verdict::proceed);
  CHECK(f.freed() == numbers({blocks(0, 10), blocks(25, 5)}));
  CHECK(f.gate.totals().limbo == BlockCount(15));

  const auto limbo = f.gate.limbo_from(PoolBlock(0), 100);
  REQUIRE(limbo.size() == 3);
  CHECK(limbo[0].range == blocks(10, 5));
  CHECK(limbo[0].pins == PinCounts{1, 0});
  CHECK(limbo[1].range == blocks(15, 5));
  CHECK(limbo[1].pins == PinCounts{2, 0});
  CHECK(limbo[2].range == blocks(20, 5));
  CHECK(f.gate.limbo_from(PoolBlock(12), 1).at(0).range == blocks(12, 3));
  CHECK(f.gate.limbo_from(PoolBlock(25), 1).empty());

  CHECK(f.gate.unpin(a, pin_a));
  CHECK(f.freed() == numbers({blocks(10, 5)}));
  CHECK(f.gate.unpin(b, pin_b));
  CHECK(f.freed() == numbers({blocks(15, 10)}));
  CHECK(f.gate.totals().limbo == BlockCount(0));
  CHECK(f.gate.unpin(b, pin_b) == fail(ENOENT));
  CHECK(f.freed().empty());
}

TEST_CASE("gate: defer refuses past limbo_limit, and counts what is on its way there") {
  GateFixture f({.pin_policy = PinPolicy::defer, .limbo_limit = ByteCount(10 * kBlockSize + 4095)});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(0, 100)}, 2);
  CHECK(f.punch({blocks(0, 11)}) == fail(ETXTBSY));
  CHECK(f.freed().empty());
  CHECK(f.punch({blocks(0, 4), blocks(200, 50)}) == Verdict::proceed);
  CHECK(f.freed() == numbers({blocks(200, 50)}));

  // May go ahead but has not yet: its blocks count.
  const TicketRef first = f.begin(1);
  const std::vector<PoolRange> six{blocks(10, 6)};
  CHECK(f.judge(first, six) == Verdict::proceed);
  CHECK(f.punch({blocks(20, 1)}) == fail(ETXTBSY));
  SECTION("it does") {
    f.gate.detached(first, six);
    f.gate.end(first);
    CHECK(f.punch({blocks(20, 1)}) == fail(ETXTBSY));
    CHECK(f.gate.totals().limbo == BlockCount(10));
  }
  SECTION("it does not") {
    f.gate.end(first);
    CHECK(f.punch({blocks(20, 6)}) == Verdict::proceed);
    CHECK(f.gate.totals().limbo == BlockCount(10));
  }
  f.gate.drop(holder);
  CHECK(f.gate.totals().limbo == BlockCount(0));
}

TEST_CASE("gate: ignore frees pinned blocks, once") {
  GateFixture f({.pin_policy = PinPolicy::ignore});
  const HolderId holder = f.gate.new_holder();
  const PinId pin = f.pinned(holder, {blocks(10, 10)}, 2);
  CHECK(f.punch({blocks(5, 10)}) == Verdict::proceed);
  CHECK(f.freed() == numbers({blocks(5, 10)}));

  SECTION("the unpin frees nothing again") {
    CHECK(f.gate.unpin(holder, pin));
    CHECK(f.freed().empty());
  }
  SECTION("another file got the block and loses it again") {
    CHECK(f.punch({blocks(12, 1)}) == Verdict::proceed);
    CHECK(f.freed() == numbers({blocks(12, 1)}));
    CHECK(f.gate.unpin(holder, pin));
    CHECK(f.freed().empty());
  }
  SECTION("another file got the block and loses it under defer") {
    f.gate.set_options({.pin_policy = PinPolicy::defer});
    CHECK(f.punch({blocks(12, 1)}) == Verdict::proceed);
    CHECK(f.freed().empty());
    CHECK(f.gate.unpin(holder, pin));
    CHECK(f.freed() == numbers({blocks(12, 1)}));
  }
  CHECK(f.gate.totals().long_pins == 0);
  bool counted = false;
  f.gate.counts(blocks(0, 100), [&](PoolRange, PinCounts) { counted = true; });
  CHECK_FALSE(counted);
}

TEST_CASE("gate: where nobody can be refused") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore}) {
    GateFixture f({.pin_policy = policy, .limbo_limit = ByteCount(0)});
    const HolderId holder = f.gate.new_holder();
    f.pinned(holder, {blocks(10, 2)}, 2);
    const std::vector<PoolRange> all{blocks(20, 3), blocks(8, 5)};
    f.gate.detached_unasked(all);
    if (policy == PinPolicy::ignore) {
      CHECK(f.freed() == numbers({blocks(8, 5), blocks(20, 3)}));
      CHECK(f.gate.drop(holder).size() == 1);
      CHECK(f.freed().empty());
    } else {
      CHECK(f.freed() == numbers({blocks(8, 2), blocks(12, 1), blocks(20, 3)}));
      CHECK(f.gate.totals().limbo == BlockCount(2));
      CHECK(f.gate.drop(holder).size() == 1);
      CHECK(f.freed() == numbers({blocks(10, 2)}));
    }
  }
}

TEST_CASE("gate: pins are found, listed and counted") {
  GateFixture f;
  const HolderId a = f.gate.new_holder();
  const HolderId b = f.gate.new_holder();
  CHECK(a != b);
  const TicketRef ticket = f.begin(1);
  const std::vector<PoolRange> two{blocks(50, 2), blocks(10, 3)};
  const auto id = f.gate.pin(ticket, {.holder = a,
                                      .inode = InodeNumber{42},
                                      .offset = FileOffset(100),
                                      .length = ByteCount(5 * kBlockSize - 100),
                                      .blocks = two,
                                      .requester = {7, 1000},
                                      .kind = PinKind::short_term,
                                      .write = true,
                                      .nowait = true});
  f.gate.end(ticket);
  REQUIRE(id);
  REQUIRE(*id);
  const PinId p1 = **id;
  const PinId p2 = f.pinned(b, {blocks(11, 1)}, 8);
  const PinId p3 = f.pinned(a, {blocks(70, 1)}, 7);
  CHECK(p1 < p2);
  CHECK(p2 < p3);

  const GateCounts totals = f.gate.totals();
  CHECK(totals.long_pins == 2);
  CHECK(totals.short_pins == 1);
  CHECK(totals.pinned_bytes == ByteCount(7 * kBlockSize));
  CHECK(totals.waiting == 0);

  CHECK(f.gate.pin_blocks(a, p1) == two);
  CHECK(f.gate.pin_blocks(b, p1) == fail(ENOENT));
  CHECK(f.gate.pin_blocks(a, PinId{999}) == fail(ENOENT));
  CHECK_FALSE(f.gate.find_pin(b, p1));
  const auto info = f.gate.find_pin(a, p1);
  REQUIRE(info);
  CHECK(info->id == p1);
  CHECK(info->holder == a);
  CHECK(info->inode == InodeNumber{42});
  CHECK(info->offset == FileOffset(100));
  CHECK(info->length == ByteCount(5 * kBlockSize - 100));
  CHECK(info->kind == PinKind::short_term);
  CHECK(info->write);
  CHECK(info->requester.process == 7);
  CHECK(info->requester.uid == 1000);
  const auto age = std::chrono::system_clock::now() - info->since;
  CHECK(age >= std::chrono::seconds(0));
  CHECK(age < std::chrono::minutes(5));

  CHECK(ids(f.gate.pins_after(PinId{0}, 100)) == std::vector{p1, p2, p3});
  CHECK(ids(f.gate.pins_after(PinId{0}, 2)) == std::vector{p1, p2});
  CHECK(ids(f.gate.pins_after(p2, 2)) == std::vector{p3});
  CHECK(f.gate.pins_after(p3, 2).empty());
  CHECK(f.gate.pins_after(PinId{0}, 0).empty());

  std::vector<PoolRange> counted;
  f.gate.counts(blocks(0, 60), [&](PoolRange range, PinCounts) { counted.push_back(range); });
  CHECK(counted == std::vector{blocks(10, 1), blocks(11, 1), blocks(12, 1), blocks(50, 2)});

  CHECK(f.gate.unpin(b, p1) == fail(ENOENT));  // a foreign pin
  CHECK(ids(f.gate.drop(a)) == std::vector{p1, p3});
  CHECK(f.gate.drop(a).empty());
  CHECK(f.gate.drop(f.gate.new_holder()).empty());
  const auto last = f.gate.unpin(b, p2);
  REQUIRE(last);
  CHECK(last->requester.process == 8);
  CHECK(f.gate.totals().pinned_bytes == ByteCount(0));
}

TEST_CASE("gate: pins of many holders are listed in pages") {
  GateFixture f;
  std::vector<HolderId> holders;
  for (int i = 0; i < 20; ++i) holders.push_back(f.gate.new_holder());
  std::vector<PinId> all;
  for (std::uint64_t i = 0; i < 400; ++i) {
    all.push_back(f.pinned(holders[i * 7 % 20], {blocks(i, 1)}, 2));
  }
  std::vector<PinId> listed;
  while (true) {
    const auto page = ids(f.gate.pins_after(listed.empty() ? PinId{0} : listed.back(), 7));
    if (page.empty()) break;
    CHECK(page.size() <= 7);
    listed.insert(listed.end(), page.begin(), page.end());
  }
  CHECK(listed == all);
}

TEST_CASE("gate: a holder with thousands of pins is dropped whole") {
  GateFixture f({.pin_policy = PinPolicy::defer});
  const HolderId holder = f.gate.new_holder();
  for (std::uint64_t i = 0; i < 3000; ++i) f.pinned(holder, {blocks(3 * i, 2)}, 2);
  CHECK(f.punch({blocks(0, 9000)}) == Verdict::proceed);
  CHECK(f.freed().size() == 3000);
  CHECK(f.gate.totals().limbo == BlockCount(6000));
  CHECK(f.gate.drop(holder).size() == 3000);
  CHECK(f.freed().size() == 6000);
  CHECK(f.gate.totals().limbo == BlockCount(0));
  CHECK(f.gate.totals().long_pins == 0);
}

TEST_CASE("gate: pins of one descriptor belong to the process that took each") {
  GateFixture f({.short_timeout_ms = kHour});
  const HolderId holder = f.gate.new_holder();
  std::vector<PinId> pins;
  for (pid_t process = 1; process <= 50; ++process) {
    pins.push_back(f.pinned(holder, {blocks(static_cast<std::uint64_t>(process), 1)}, process));
  }
  for (pid_t process = 1; process <= 50; ++process) {
    const auto info = f.gate.unpin(holder, pins[static_cast<std::size_t>(process - 1)]);
    REQUIRE(info);
    CHECK(info->requester.process == process);
  }
  const PinId again = f.pinned(holder, {blocks(1, 1)}, 99);
  CHECK(f.gate.find_pin(holder, again)->requester.process == 99);
}

TEST_CASE("gate: a request cancelled before it is judged goes ahead if it need not wait") {
  GateFixture f;
  const TicketRef detach = f.begin(1);
  f.gate.cancel(detach);
  CHECK(f.judge(detach, {blocks(0, 1)}) == Verdict::proceed);
  f.gate.end(detach);
  const TicketRef pin = f.begin(2);
  f.gate.cancel(pin);
  CHECK(granted(f.pin(pin, f.gate.new_holder(), {blocks(0, 1)}, 1)));
  f.gate.end(pin);
  f.gate.cancel(pin);  // too late: no effect
  CHECK(f.gate.totals().waiting == 0);
  CHECK(f.woken.none());
}

TEST_CASE("gate: a request cancelled before it is judged fails with EINTR where it would wait") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(0, 1)}, 2, PinKind::short_term);
  const TicketRef detach = f.begin(1);
  f.gate.cancel(detach);
  CHECK(f.judge(detach, {blocks(0, 1)}) == fail(EINTR));
  CHECK(f.judge(detach, {blocks(0, 1)}) == fail(EINTR));
  f.gate.end(detach);
  const TicketRef waiting = f.begin(2);
  REQUIRE(f.judge(waiting, {blocks(0, 1)}) == Verdict::parked);
  const TicketRef pin = f.begin(3);
  f.gate.cancel(pin);
  CHECK(failed(f.pin(pin, holder, {blocks(0, 1)}, 3), EINTR));
  f.gate.end(pin);
  f.gate.end(waiting);
  CHECK(f.gate.totals().waiting == 0);
}

TEST_CASE("gate: after stop() everything fails with EINTR, and stop() can be repeated") {
  GateFixture f;
  f.gate.stop();
  f.gate.stop();
  CHECK(f.punch({blocks(0, 1)}) == fail(EINTR));
  const TicketRef pin = f.begin(1);
  CHECK(failed(f.pin(pin, f.gate.new_holder(), {blocks(0, 1)}, 1), EINTR));
  f.gate.end(pin);
}
