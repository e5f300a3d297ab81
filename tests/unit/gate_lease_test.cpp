// Layout leases at the gate: who is told, who waits for whom, and what a lease is good for.
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

GateOptions breaking(std::uint64_t timeout_ms = kHour) {
  return {
      .pin_policy = PinPolicy::breaks, .short_timeout_ms = kHour, .break_timeout_ms = timeout_ms};
}

// A gate whose news for holders are recorded.
class Leases : public GateFixture {
 public:
  explicit Leases(GateOptions options = breaking()) : GateFixture(options) {
    holder = gate.new_holder();
    other = gate.new_holder();
  }

  Result<std::optional<LeaseId>> ask(HolderId of, std::uint64_t first, std::uint64_t count,
                                     pid_t process, bool exclusive = false, bool nowait = false) {
    const TicketRef ticket = begin(-1);
    const auto taken = gate.lease(ticket, {.holder = of,
                                           .inode = InodeNumber{1},
                                           .offset = offset_of(FileBlock(first)),
                                           .length = bytes(BlockCount(count)),
                                           .requester = {process, 0},
                                           .exclusive = exclusive,
                                           .nowait = nowait});
    if (!taken || *taken) gate.end(ticket);
    return taken;
  }
  LeaseId leased(HolderId of, std::uint64_t first, std::uint64_t count, pid_t process,
                 bool exclusive = false) {
    return **ask(of, first, count, process, exclusive);
  }

  HolderId holder;
  HolderId other;
};

int code_of(const Result<std::optional<LeaseId>>& result) {
  return result ? 0 : result.error().code;
}
int code_of(const Status& status) { return status ? 0 : status.error().code; }

}  // namespace

TEST_CASE("lease: a detach under `break` tells the holder, and waits for lease and pins") {
  Leases f;
  const LeaseId lease = f.leased(f.holder, 0, 100, 2);
  const PinId pin = f.pinned(f.holder, {blocks(10, 5)}, 2);
  const TicketRef detach = f.begin(1);
  const std::vector<PoolRange> wanted{blocks(8, 20)};
  CHECK(f.judge(detach, wanted) == Verdict::parked);

  const auto news = f.gate.next_news(f.holder);
  REQUIRE(news);
  CHECK(news->kind == LeaseNews::Kind::asked);
  CHECK(news->lease == lease);
  CHECK(news->range == in_file(8, 20));
  CHECK(news->process == 1);
  CHECK(news->deadline);
  CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);  // told once

  CHECK(f.gate.leases_after(LeaseId{}, 10).at(0).breaking);
  REQUIRE(f.gate.unpin(f.holder, pin));
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, wanted) == Verdict::parked);  // the lease is still there
  CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
  REQUIRE(f.gate.unlease(f.holder, lease));
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, wanted) == Verdict::proceed);
  f.gate.detached(detach, wanted);
  f.gate.end(detach);
  CHECK(f.freed().size() == 20);
}

TEST_CASE("lease: shrinking it out of the way is giving way") {
  Leases f;
  const LeaseId lease = f.leased(f.holder, 0, 100, 2);
  const TicketRef detach = f.begin(1);
  CHECK(f.judge(detach, {blocks(50, 50)}) == Verdict::parked);
  const auto shrink = [&](std::uint64_t first, std::uint64_t count) {
    return code_of(f.gate.shrink_lease(f.holder, lease, offset_of(FileBlock(first)),
                                       bytes(BlockCount(count))));
  };
  CHECK(shrink(0, 101) == EINVAL);
  CHECK(shrink(0, 0) == EINVAL);
  CHECK(shrink(0, 60) == 0);  // not far enough: asked again, for what is left
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, {blocks(50, 50)}) == Verdict::parked);
  CHECK(f.gate.next_news(f.holder)->range == in_file(50, 10));
  CHECK(shrink(0, 50) == 0);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, {blocks(50, 50)}) == Verdict::proceed);
  f.gate.end(detach);
  CHECK_FALSE(f.gate.leases_after(LeaseId{}, 10).at(0).breaking);
}

TEST_CASE("lease: who ignores the break loses it when the time is up; pins still count") {
  for (const bool has_pin : {false, true}) {
    for (const OnTimeout then : {OnTimeout::refuse, OnTimeout::defer}) {
      GateOptions options = breaking(50);
      options.on_timeout = then;
      Leases f(options);
      const LeaseId lease = f.leased(f.holder, 0, 10, 2);
      if (has_pin) f.pinned(f.holder, {blocks(0, 1)}, 2);
      const TicketRef detach = f.begin(1);
      CHECK(f.judge(detach, {blocks(0, 10)}) == Verdict::parked);
      CHECK(f.gate.next_news(f.holder)->kind == LeaseNews::Kind::asked);
      CHECK(f.woken.next() == 1);
      const auto verdict = f.judge(detach, {blocks(0, 10)});
      if (has_pin && then == OnTimeout::refuse) {
        CHECK(verdict.error().code == ETXTBSY);
        CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
        CHECK(f.gate.totals().leases == 1);
      } else {
        CHECK(verdict == Verdict::proceed);
        const auto news = f.gate.next_news(f.holder);
        REQUIRE(news);
        CHECK(news->kind == LeaseNews::Kind::revoked);
        CHECK(news->lease == lease);
        CHECK(f.gate.totals().leases == 0);
        CHECK(code_of(f.gate.unlease(f.holder, lease)) == ENOENT);
      }
      f.gate.end(detach);
    }
  }
}

TEST_CASE("lease: a detach that goes ahead tells, without a deadline") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait}) {
    Leases f({.pin_policy = policy, .short_timeout_ms = kHour});
    f.leased(f.holder, 0, 10, 2);
    CHECK(f.punch({blocks(0, 4)}) == Verdict::proceed);
    const auto news = f.gate.next_news(f.holder);
    REQUIRE(news);
    CHECK_FALSE(news->deadline);
    CHECK(news->range == in_file(0, 4));
    CHECK(f.gate.totals().leases == 1);
  }
}

TEST_CASE("lease: a detach that is refused tells nobody") {
  Leases f({.pin_policy = PinPolicy::refuse, .short_timeout_ms = kHour});
  f.leased(f.holder, 0, 10, 2);
  f.pinned(f.holder, {blocks(0, 1)}, 2);
  CHECK(f.punch({blocks(0, 4)}).error().code == ETXTBSY);
  CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
}

TEST_CASE("lease: unread news of one lease become one, over both ranges, with the first deadline") {
  Leases f;
  f.leased(f.holder, 0, 100, 2);
  const TicketRef first = f.begin(1);
  const TicketRef second = f.begin(2);
  CHECK(f.judge(first, {blocks(10, 5)}) == Verdict::parked);
  const auto deadline = f.gate.leases_after(LeaseId{}, 1).at(0).breaking;
  CHECK(f.judge(second, {blocks(40, 5)}) == Verdict::parked);
  const auto news = f.gate.next_news(f.holder);
  REQUIRE(news);
  CHECK(news->range == in_file(10, 35));
  CHECK(news->deadline == deadline);
  CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
  f.gate.end(first);
  f.gate.end(second);
}

TEST_CASE("lease: an exclusive one makes others' detaches fail, whatever the policy") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                                 PinPolicy::breaks, PinPolicy::ignore}) {
    Leases f({.pin_policy = policy, .short_timeout_ms = kHour});
    f.leased(f.holder, 0, 10, 2, true);
    const auto others = f.punch({blocks(4, 4)}, 1);
    if (policy == PinPolicy::ignore) {
      CHECK(others == Verdict::proceed);
    } else {
      CHECK(others.error().code == ETXTBSY);
    }
    // The same process through another open file, and by path: as others.
    for (const auto through : {std::optional(f.other), std::optional<HolderId>()}) {
      const auto same_process = f.punch({blocks(4, 4)}, 2, through);
      if (policy == PinPolicy::ignore) {
        CHECK(same_process == Verdict::proceed);
      } else {
        CHECK(same_process.error().code == ETXTBSY);
      }
    }
    for (const pid_t process : {2, 1, 0}) {  // a child has inherited the descriptor
      CHECK(f.punch({blocks(4, 4)}, process, f.holder) == Verdict::proceed);
    }
    CHECK(f.punch({blocks(10, 4)}, 1) == Verdict::proceed);
  }
}

TEST_CASE("lease: exclusive and others' leases exclude each other, where they overlap") {
  Leases f;
  f.leased(f.holder, 0, 10, 2);
  CHECK(code_of(f.ask(f.other, 9, 5, 3, true)) == EAGAIN);
  CHECK(code_of(f.ask(f.other, 10, 5, 3, true)) == 0);
  CHECK(code_of(f.ask(f.holder, 9, 5, 2)) == EAGAIN);
  CHECK(code_of(f.ask(f.holder, 0, 10, 2, true)) == 0);  // beside its own
}

TEST_CASE("lease: one's own detach does not break one's own lease, and its own pins count") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                                 PinPolicy::breaks, PinPolicy::ignore}) {
    Leases f({.pin_policy = policy, .short_timeout_ms = kHour});
    f.leased(f.holder, 0, 10, 2);
    for (const pid_t process : {2, 1, 0}) {  // the holder is the open file, not a process
      CHECK(f.punch({blocks(0, 4)}, process, f.holder) == Verdict::proceed);
    }
    CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
  }
  Leases f;
  f.leased(f.holder, 0, 10, 2);
  f.pinned(f.holder, {blocks(5, 1)}, 2);
  CHECK(f.punch({blocks(5, 1)}, 2, f.holder).error().code == EDEADLK);
  const TicketRef child = f.begin(1);
  CHECK(f.judge(child, {blocks(5, 1)}, 3, f.holder) == Verdict::parked);
  CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
  f.gate.end(child);
}

TEST_CASE("lease: the process's other open files are told like anybody's") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait}) {
    Leases f({.pin_policy = policy, .short_timeout_ms = kHour});
    f.leased(f.holder, 0, 10, 2);
    for (const auto through : {std::optional(f.other), std::optional<HolderId>()}) {
      CHECK(f.punch({blocks(0, 4)}, 2, through) == Verdict::proceed);
      const auto news = f.gate.next_news(f.holder);
      REQUIRE(news);
      CHECK_FALSE(news->deadline);
      CHECK(news->process == 2);
    }
    CHECK(f.gate.totals().leases == 1);
  }
}

TEST_CASE("lease: under `break`, who would wait for its own process alone is told so at once") {
  Leases f;
  f.leased(f.holder, 0, 10, 2);
  const auto by_path = std::optional<HolderId>();
  for (const auto through : {std::optional(f.other), by_path}) {
    CHECK(f.punch({blocks(0, 4)}, 2, through).error().code == EDEADLK);
    f.pinned(f.holder, {blocks(1, 1)}, 2);  // and with pins of its own beside
    CHECK(f.punch({blocks(0, 4)}, 2, through).error().code == EDEADLK);
    CHECK(f.gate.next_news(f.holder).error().code == EAGAIN);
  }
  CHECK_FALSE(f.gate.leases_after(LeaseId{}, 1).at(0).breaking);

  // Nobody is process 0, and two of these need not be the same.
  f.leased(f.other, 20, 10, 0);
  const TicketRef nobody = f.begin(1);
  CHECK(f.judge(nobody, {blocks(20, 4)}, 0) == Verdict::parked);
  f.gate.end(nobody);
}

TEST_CASE("lease: under `break`, others in the way: the process's own are asked and awaited, too") {
  for (const bool by_lease : {true, false}) {
    for (const bool own_first : {true, false}) {
      INFO(by_lease << own_first);
      Leases f;
      const LeaseId own = f.leased(f.holder, 0, 10, 2);
      // What another process has there.
      LeaseId lease;
      PinId pin;
      if (by_lease) {
        lease = f.leased(f.other, 0, 10, 3);
      } else {
        pin = f.pinned(f.other, {blocks(1, 1)}, 3);
      }
      const auto other_goes = [&] {
        return by_lease ? f.gate.unlease(f.other, lease).has_value()
                        : f.gate.unpin(f.other, pin).has_value();
      };
      const TicketRef detach = f.begin(1);
      const std::vector<PoolRange> wanted{blocks(0, 4)};
      CHECK(f.judge(detach, wanted, 2) == Verdict::parked);
      const auto news = f.gate.next_news(f.holder);
      REQUIRE(news);
      CHECK(news->deadline);
      CHECK(f.gate.next_news(f.other).has_value() == by_lease);
      if (own_first) {
        REQUIRE(f.gate.unlease(f.holder, own));
        CHECK(f.woken.next() == 1);
        CHECK(f.judge(detach, wanted, 2) == Verdict::parked);
        REQUIRE(other_goes());
        CHECK(f.woken.next() == 1);
        CHECK(f.judge(detach, wanted, 2) == Verdict::proceed);
      } else {
        REQUIRE(other_goes());
        CHECK(f.woken.next() == 1);
        CHECK(f.judge(detach, wanted, 2).error().code == EDEADLK);
      }
      f.gate.end(detach);
      CHECK(f.gate.totals().leases == (own_first ? 0 : 1));
    }
  }
}

TEST_CASE("lease: when the time is up, the process's own lease is taken away as others' are") {
  Leases f(breaking(50));
  f.leased(f.holder, 0, 10, 2);
  f.leased(f.other, 0, 10, 3);
  const TicketRef detach = f.begin(1);
  CHECK(f.judge(detach, {blocks(0, 4)}, 2) == Verdict::parked);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, {blocks(0, 4)}, 2) == Verdict::proceed);
  f.gate.end(detach);
  CHECK(f.gate.totals().leases == 0);
  CHECK(f.gate.next_news(f.holder)->kind == LeaseNews::Kind::revoked);
}

TEST_CASE("lease: new leases queue behind a waiting detach, as pins do") {
  Leases f;
  f.leased(f.holder, 0, 10, 2);
  const TicketRef detach = f.begin(1);
  CHECK(f.judge(detach, {blocks(0, 10)}) == Verdict::parked);
  CHECK(code_of(f.ask(f.other, 5, 1, 3, false, true)) == EAGAIN);
  const TicketRef late = f.begin(2);
  const LeaseRequest request{.holder = f.other,
                             .inode = InodeNumber{1},
                             .offset = offset_of(FileBlock(5)),
                             .length = bytes(BlockCount(1)),
                             .requester = {3, 0}};
  CHECK_FALSE(*f.gate.lease(late, request));
  (void)f.gate.drop(f.holder);
  CHECK(f.woken.next() == 1);
  CHECK(f.judge(detach, {blocks(0, 10)}) == Verdict::proceed);
  f.gate.end(detach);
  CHECK(f.woken.next() == 2);
  CHECK(*f.gate.lease(late, request));
  f.gate.end(late);
}

TEST_CASE("lease: longterm=lease wants one of the same holder over all of the range") {
  Leases f({.longterm = LongTerm::lease, .short_timeout_ms = kHour});
  const auto pin = [&](HolderId of, std::uint64_t first, std::uint64_t count,
                       PinKind kind = PinKind::long_term) {
    const TicketRef ticket = f.begin(-1);
    auto result = f.pin(ticket, of, {blocks(first, count)}, 2, kind);
    f.gate.end(ticket);
    return result;
  };
  CHECK(failed(pin(f.holder, 0, 4), EPERM));
  CHECK(granted(pin(f.holder, 0, 4, PinKind::short_term)));
  const LeaseId first = f.leased(f.holder, 0, 4, 2);
  CHECK(granted(pin(f.holder, 0, 4)));
  CHECK(failed(pin(f.holder, 0, 5), EPERM));
  CHECK(failed(pin(f.other, 0, 4), EPERM));
  const LeaseId second = f.leased(f.holder, 3, 10, 2);
  CHECK(granted(pin(f.holder, 2, 8)));  // two leases, side by side

  CHECK(code_of(f.gate.unlease(f.holder, second)) == EBUSY);
  CHECK(code_of(f.gate.shrink_lease(f.holder, second, offset_of(FileBlock(3)),
                                    bytes(BlockCount(6)))) == EBUSY);
  CHECK(code_of(f.gate.shrink_lease(f.holder, second, offset_of(FileBlock(3)),
                                    bytes(BlockCount(7)))) == 0);
  (void)f.gate.drop(f.other);
  GateOptions allow = f.gate.options();
  allow.longterm = LongTerm::allow;
  f.gate.set_options(allow);
  CHECK(code_of(f.gate.unlease(f.holder, second)) == 0);
  CHECK(code_of(f.gate.unlease(f.holder, first)) == 0);
  CHECK(code_of(f.gate.unlease(f.holder, first)) == ENOENT);
}

TEST_CASE("lease: longterm=forbid is about long-term pins alone") {
  Leases f({.longterm = LongTerm::forbid, .short_timeout_ms = kHour});
  f.leased(f.holder, 0, 4, 2);
  const TicketRef ticket = f.begin(-1);
  CHECK(failed(f.pin(ticket, f.holder, {blocks(0, 1)}, 2), EOPNOTSUPP));
  CHECK(granted(f.pin(ticket, f.holder, {blocks(0, 1)}, 2, PinKind::short_term)));
  f.gate.end(ticket);
}

TEST_CASE("lease: no more of them than a holder can have, and they go with it") {
  Leases f;
  for (std::size_t i = 0; i < LeaseTable::kMostLeases; ++i) f.leased(f.holder, i, 1, 2);
  CHECK(code_of(f.ask(f.holder, 0, 1, 2)) == ENOLCK);
  CHECK(code_of(f.ask(f.other, 0, 1, 3)) == 0);
  (void)f.gate.drop(f.holder);
  CHECK(f.gate.totals().leases == 1);
}

TEST_CASE("pin_limit: counts all pins of a user, each for itself") {
  GateFixture f({.short_timeout_ms = kHour, .pin_limit = ByteCount(10 * kBlockSize + 1)});
  const HolderId holder = f.gate.new_holder();
  const auto pin = [&](std::uint64_t count, uid_t uid) {
    const TicketRef ticket = f.begin(-1);
    const std::vector<PoolRange> range{blocks(0, count)};
    auto result = f.gate.pin(ticket, {.holder = holder,
                                      .inode = InodeNumber{1},
                                      .offset = FileOffset(0),
                                      .length = bytes(BlockCount(count)),
                                      .blocks = range,
                                      .requester = {2, uid}});
    f.gate.end(ticket);
    return result;
  };
  CHECK(failed(pin(11, 7), ENOMEM));
  const auto most = pin(8, 7);
  REQUIRE(granted(most));
  CHECK(failed(pin(3, 7), ENOMEM));
  CHECK(granted(pin(10, 8)));
  REQUIRE(f.gate.unpin(holder, **most));
  CHECK(granted(pin(10, 7)));
}

TEST_CASE("a file's own policy comes before the mount's") {
  GateFixture f({.pin_policy = PinPolicy::refuse, .short_timeout_ms = kHour});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(0, 1)}, 2);
  const std::vector<PoolRange> block{blocks(0, 1)};
  DetachRequest request{.inode = InodeNumber{1},
                        .range = in_file(0, 1),
                        .blocks = block,
                        .requester = {1, 0},
                        .policy = PinPolicy::wait};
  const TicketRef ticket = f.begin(1);
  CHECK(f.gate.judge(ticket, request) == Verdict::parked);
  f.gate.rejudge(InodeNumber{2});
  f.gate.rejudge(InodeNumber{1});
  CHECK(f.woken.next() == 1);
  request.policy = PinPolicy::defer;
  CHECK(f.gate.judge(ticket, request) == Verdict::proceed);
  f.gate.end(ticket);
}
