// Who repeats an interrupted request goes on where it was; and waits that last for too long.
#include <atomic>
#include <semaphore>

#include "lease/gate.h"
#include "lease/repeats.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// A gate with a clock that moves when the test says so.
class Clocked {
 public:
  explicit Clocked(GateOptions options)
      : gate(options,
             {.free_blocks = [](std::span<const PoolRange>) {},
              .processes = {.mark = {},
                            .has_ended =
                                [this](const ProcessMark& process) {
                                  return process.process == ended;
                                }},
              .now =
                  [this] {
                    return std::chrono::steady_clock::time_point(std::chrono::hours(1'000'000)) +
                           milliseconds(elapsed_ms.load());
                  }}) {
    const TicketRef ticket = gate.begin([] {});
    const std::vector<PoolRange> pinned{blocks(10, 2)};
    holder = gate.new_holder();
    REQUIRE(granted(gate.pin(ticket, {.holder = holder,
                                      .inode = InodeNumber{1},
                                      .offset = offset_of(FileBlock(10)),
                                      .length = ByteCount(2 * kBlockSize),
                                      .blocks = pinned,
                                      .requester = {2, 0}})));
    gate.end(ticket);
  }
  DetachRequest request(pid_t process = 1) const {
    return {
        .inode = InodeNumber{1}, .range = in_file(0, 20), .blocks = all, .requester = {process, 0}};
  }
  // Parks, is interrupted after so long, and ends.
  void interrupted(const DetachRequest& request, int ms) {
    const TicketRef ticket = gate.begin([] {});
    CHECK(gate.judge(ticket, request) == Verdict::parked);
    elapsed_ms += ms;
    gate.cancel(ticket);
    CHECK(gate.judge(ticket, request) == fail(EINTR));
    gate.end(ticket);
  }
  Result<Verdict> ask(const DetachRequest& request) {
    const TicketRef ticket = gate.begin([] {});
    const Result<Verdict> verdict = gate.judge(ticket, request);
    gate.end(ticket);
    return verdict;
  }

  // Asks for a pin of [15, 16), as a holder of its own.
  TicketRef begin_pin(int number) {
    return gate.begin([this, number] { woken.push(number); });
  }
  Result<std::optional<PinId>> pin(const TicketRef& ticket, pid_t process, bool nowait = false) {
    const std::vector<PoolRange> wanted{blocks(15, 1)};
    return gate.pin(ticket, {.holder = other,
                             .inode = InodeNumber{1},
                             .offset = offset_of(FileBlock(15)),
                             .length = ByteCount(kBlockSize),
                             .blocks = wanted,
                             .requester = {process, 0},
                             .nowait = nowait});
  }
  // EAGAIN: a fence stands there.
  int error_of_pin(pid_t process = 3) {
    const TicketRef ticket = gate.begin([] {});
    const auto pin = this->pin(ticket, process, true);
    gate.end(ticket);
    if (!pin) return pin.error().code;
    CHECK(gate.unpin(other, **pin));
    return 0;
  }
  // Has the gate's thread look at the clock.
  void let_pass(int ms) {
    elapsed_ms += ms;
    const std::vector<PoolRange> pinned{blocks(10, 1)};
    REQUIRE(test::settle(gate, {.inode = InodeNumber{2},
                                .range = in_file(0, 1),
                                .blocks = pinned,
                                .requester = {99, 0},
                                .policy = PinPolicy::wait})
                .in_time);
  }

  const std::vector<PoolRange> all{blocks(0, 20)};
  std::atomic<int> elapsed_ms = 0;
  std::atomic<pid_t> ended = -1;
  Woken woken;
  HolderId holder;
  HolderId other{12345};
  Gate gate;
};

}  // namespace

TEST_CASE("gate: wait_timeout runs over all repetitions of an interrupted request") {
  Clocked f({.pin_policy = PinPolicy::wait, .wait_timeout_ms = 3000});
  for (int i = 0; i < 3; ++i) f.interrupted(f.request(), 900);
  f.elapsed_ms += 299;
  f.interrupted(f.request(), 0);
  f.elapsed_ms += 1;
  CHECK(f.ask(f.request()) == fail(ETXTBSY));
  // That was its answer: who asks once more begins anew.
  CHECK(f.ask(f.request()) == Verdict::parked);
}

TEST_CASE("gate: break_timeout and short_timeout do, too") {
  Clocked f({.pin_policy = PinPolicy::breaks, .break_timeout_ms = 2000});
  f.interrupted(f.request(), 1500);
  f.interrupted(f.request(), 499);
  f.elapsed_ms += 1;
  CHECK(f.ask(f.request()) == fail(ETXTBSY));

  Clocked shorts({.short_timeout_ms = 1000});
  shorts.gate.drop(shorts.holder);
  const TicketRef ticket = shorts.gate.begin([] {});
  REQUIRE(granted(shorts.gate.pin(ticket, {.holder = shorts.gate.new_holder(),
                                           .inode = InodeNumber{1},
                                           .offset = {},
                                           .length = ByteCount(kBlockSize),
                                           .blocks = shorts.all,
                                           .requester = {2, 0},
                                           .kind = PinKind::short_term})));
  shorts.gate.end(ticket);
  shorts.interrupted(shorts.request(), 600);
  shorts.interrupted(shorts.request(), 399);
  shorts.elapsed_ms += 1;
  CHECK(shorts.ask(shorts.request()) == fail(ETXTBSY));
}

TEST_CASE("gate: only the same request is a repetition, and only soon") {
  Clocked f({.pin_policy = PinPolicy::wait, .wait_timeout_ms = 3000});
  f.interrupted(f.request(), 3000 - 1);
  f.elapsed_ms += 1;
  CHECK(f.ask(f.request(7)) == Verdict::parked);
  DetachRequest other = f.request();
  other.reason = DetachReason::truncate;
  CHECK(f.ask(other) == Verdict::parked);
  other = f.request();
  other.range = in_file(0, 19);
  CHECK(f.ask(other) == Verdict::parked);
  other = f.request();
  other.holder = f.gate.new_holder();
  CHECK(f.ask(other) == Verdict::parked);
  f.elapsed_ms += 9998;
  CHECK(f.ask(f.request()) == fail(ETXTBSY));

  f.interrupted(f.request(), 1);
  f.elapsed_ms += 10'000;
  CHECK(f.ask(f.request()) == Verdict::parked);
  // Nobody knows who process 0 is.
  f.interrupted(f.request(0), 2999);
  f.elapsed_ms += 1;
  CHECK(f.ask(f.request(0)) == Verdict::parked);
}

TEST_CASE("gate: the fence of an interrupted detach stands until it is repeated") {
  Clocked f({.pin_policy = PinPolicy::wait});
  f.interrupted(f.request(), 0);
  CHECK(f.error_of_pin() == EAGAIN);
  const TicketRef newer = f.begin_pin(1);
  CHECK(parked(f.pin(newer, 3)));

  // The repetition has its old place: it is older than the pin that has come since.
  const TicketRef again = f.gate.begin([] {});
  CHECK(f.gate.judge(again, f.request()) == Verdict::parked);
  f.let_pass(Repeats::kKept / milliseconds(1));
  CHECK(f.woken.none());
  CHECK(f.gate.unpin(f.holder, PinId{1}));
  CHECK(f.gate.judge(again, f.request()) == Verdict::proceed);
  f.gate.end(again);
  CHECK(f.woken.next() == 1);
  CHECK(granted(f.pin(newer, 3)));
  f.gate.end(newer);
}

TEST_CASE("gate: an interrupted detach that never comes back holds up nobody for long") {
  Clocked f({.pin_policy = PinPolicy::wait});
  const TicketRef pin = f.begin_pin(1);
  f.interrupted(f.request(), 0);
  const TicketRef late = f.begin_pin(2);
  CHECK(parked(f.pin(late, 3)));
  CHECK(granted(f.pin(pin, 3)));  // it is older
  f.gate.end(pin);
  SECTION("at most for as long as it is remembered") {
    f.let_pass(9'999);
    CHECK(f.woken.none());
    CHECK(f.error_of_pin() == EAGAIN);
    f.let_pass(1);
  }
  SECTION("not while its process has ended") {
    f.ended = 1;
    f.let_pass(99);
    CHECK(f.woken.none());
    f.let_pass(1);
  }
  SECTION("nor when somebody comes and finds that out") {
    f.ended = 1;
    CHECK(f.error_of_pin() == 0);
  }
  SECTION("nor when its process asks for something else there") { CHECK(f.error_of_pin(1) == 0); }
  SECTION("nor when the file is no more") { f.gate.detached_unasked({}, InodeNumber{1}); }
  CHECK(f.woken.next() == 2);
  CHECK(f.error_of_pin() == 0);
  f.gate.end(late);
}

TEST_CASE("gate: a process that has ended keeps no place") {
  Clocked f({.pin_policy = PinPolicy::wait});
  f.ended = 1;
  f.interrupted(f.request(), 0);
  CHECK(f.error_of_pin() == 0);
  f.interrupted(f.request(0), 0);  // nor does one that is not known
  CHECK(f.error_of_pin() == 0);
}

TEST_CASE("gate: an interrupted pin has its place when it is repeated") {
  Clocked f({.pin_policy = PinPolicy::wait});
  const TicketRef detach = f.gate.begin([] {});
  CHECK(f.gate.judge(detach, f.request()) == Verdict::parked);
  const TicketRef pin = f.begin_pin(1);
  CHECK(parked(f.pin(pin, 3)));
  const TicketRef newer = f.gate.begin([] {});
  CHECK(f.gate.judge(newer, f.request(7)) == Verdict::parked);
  f.gate.cancel(pin);
  CHECK(f.woken.next() == 1);
  CHECK(failed(f.pin(pin, 3), EINTR));
  f.gate.end(pin);
  f.gate.end(detach);

  // Behind the newer detach, had it come only now.
  CHECK(f.error_of_pin(8) == EAGAIN);
  const TicketRef again = f.begin_pin(2);
  CHECK(granted(f.pin(again, 3)));
  f.gate.end(again);
  f.gate.end(newer);
}

TEST_CASE("gate: while its thread looks which processes have ended, others are served") {
  constexpr auto kLong = seconds(10);
  std::atomic<bool> dead = false;
  std::atomic<bool> in_time = false;
  std::binary_semaphore looks{0};
  std::binary_semaphore served{0};
  Woken woken;
  Gate gate({.pin_policy = PinPolicy::wait},
            {.free_blocks = [](std::span<const PoolRange>) {},
             .processes = {.mark = {}, .has_ended = [&](const ProcessMark&) {
                             if (!dead) return false;
                             looks.release();
                             in_time = served.try_acquire_for(kLong);
                             return true;
                           }}});
  const std::vector<PoolRange> pinned{blocks(10, 1)};
  const auto pin = [&](const TicketRef& ticket, pid_t process) {
    return gate.pin(ticket, {.holder = gate.new_holder(),
                             .inode = InodeNumber{1},
                             .offset = offset_of(FileBlock(10)),
                             .length = ByteCount(kBlockSize),
                             .blocks = pinned,
                             .requester = {process, 0}});
  };
  const TicketRef first = gate.begin([] {});
  REQUIRE(granted(pin(first, 2)));
  gate.end(first);
  const DetachRequest request{
      .inode = InodeNumber{1}, .range = in_file(0, 20), .blocks = pinned, .requester = {1, 0}};
  const TicketRef detach = gate.begin([] {});
  REQUIRE(gate.judge(detach, request) == Verdict::parked);
  gate.cancel(detach);
  REQUIRE(gate.judge(detach, request) == fail(EINTR));
  gate.end(detach);
  // Behind the fence that is left.
  const TicketRef behind = gate.begin([&] { woken.push(1); });
  REQUIRE(parked(pin(behind, 3)));

  dead = true;
  REQUIRE(looks.try_acquire_for(kLong));
  CHECK(gate.totals().waiting == 1);
  served.release();
  CHECK(woken.next() == 1);
  CHECK(in_time);
  CHECK(granted(pin(behind, 3)));
  gate.end(behind);
}

TEST_CASE("gate: a request that may not wait for long is interrupted, and goes on when repeated") {
  Clocked f({.pin_policy = PinPolicy::wait, .wait_timeout_ms = 25'000});
  DetachRequest request = f.request();
  request.longest = seconds(10);
  for (int i = 0; i < 2; ++i) {
    const TicketRef ticket = f.gate.begin([] {});
    CHECK(f.gate.judge(ticket, request) == Verdict::parked);
    f.elapsed_ms += 9'999;
    CHECK(f.gate.judge(ticket, request) == Verdict::parked);
    f.elapsed_ms += 1;
    CHECK(f.gate.judge(ticket, request) == fail(EINTR));
    f.gate.end(ticket);
  }
  // Its deadline has run on.
  f.elapsed_ms += 5'000;
  CHECK(f.ask(request) == fail(ETXTBSY));
}

TEST_CASE("what is remembered of interrupted requests has an end") {
  Repeats repeats({}, {});
  const SteadyTime now{};
  const auto key = [](int process) {
    return Repeats::Key{
        .reason = DetachReason::punch, .process = process, .takes = {}, .holder = {}};
  };
  const int most = static_cast<int>(Repeats::kMost);
  for (int process = 1; process <= most + 1; ++process) repeats.save(key(process), {}, now);
  CHECK(repeats.size() == Repeats::kMost);
  CHECK_FALSE(repeats.take(key(1), now));
  CHECK(repeats.take(key(2), now));
  CHECK_FALSE(repeats.take(key(2), now));
  CHECK(repeats.take(key(most + 1), now + seconds(9)));
  CHECK_FALSE(repeats.take(key(3), now + seconds(10)));
  CHECK(repeats.size() == 0);
}

TEST_CASE("gate: a kernel that gives up on requests: waits are interrupted before") {
  // Long, so that a busy machine comes to the waiting before it is over.
  constexpr auto kLimit = milliseconds(1000);
  GateFixture f({.pin_policy = PinPolicy::wait});
  f.gate.limit_waits(kLimit);
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 1)}, 2);
  const TicketRef waits = f.begin(1);
  const auto start = std::chrono::steady_clock::now();
  CHECK(f.judge(waits, {blocks(10, 1)}) == Verdict::parked);
  CHECK(f.woken.next() == 1);
  CHECK(std::chrono::steady_clock::now() - start >= kLimit);
  CHECK(f.judge(waits, {blocks(10, 1)}) == fail(EINTR));
  f.gate.end(waits);

  // One behind a fence as well. The fence is one that was there before.
  GateFixture g({.pin_policy = PinPolicy::wait});
  g.pinned(g.gate.new_holder(), {blocks(10, 1)}, 2);
  const TicketRef fence = g.begin(1);
  CHECK(g.judge(fence, {blocks(10, 1)}) == Verdict::parked);
  g.gate.limit_waits(kLimit);
  const TicketRef pin = g.begin(2);
  CHECK(parked(g.pin(pin, g.gate.new_holder(), {blocks(10, 1)}, 3)));
  CHECK(g.woken.next() == 2);
  CHECK(failed(g.pin(pin, g.gate.new_holder(), {blocks(10, 1)}, 3), EINTR));
  g.gate.end(pin);
  CHECK(g.gate.totals().waiting == 1);
  g.gate.end(fence);
}

TEST_CASE("gate: a pin that such a kernel has interrupted has its old place when it is repeated") {
  GateFixture f({.pin_policy = PinPolicy::wait});
  f.pinned(f.gate.new_holder(), {blocks(10, 1)}, 2);
  const TicketRef fence = f.begin(1);
  CHECK(f.judge(fence, {blocks(10, 1)}) == Verdict::parked);
  f.gate.limit_waits(milliseconds(50));
  const HolderId holder = f.gate.new_holder();
  const TicketRef first = f.begin(2);
  CHECK(parked(f.pin(first, holder, {blocks(10, 1)}, 3)));
  CHECK(f.woken.next() == 2);
  CHECK(failed(f.pin(first, holder, {blocks(10, 1)}, 3), EINTR));
  f.gate.end(first);
  f.gate.limit_waits(std::chrono::hours(1));

  // A detach comes before the repetition, and fences the range, too.
  const TicketRef newer = f.begin(3);
  CHECK(f.judge(newer, {blocks(10, 1)}, 4) == Verdict::parked);
  const TicketRef again = f.begin(4);
  CHECK(parked(f.pin(again, holder, {blocks(10, 1)}, 3)));
  f.gate.end(fence);
  CHECK(f.woken.next() == 4);
  CHECK(granted(f.pin(again, holder, {blocks(10, 1)}, 3)));
  f.gate.end(again);
  CHECK(f.gate.totals().waiting == 1);
  f.gate.end(newer);
}
