// Who repeats an interrupted request goes on where it was; and waits that last for too long.
#include <atomic>

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

  const std::vector<PoolRange> all{blocks(0, 20)};
  std::atomic<int> elapsed_ms = 0;
  HolderId holder;
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

TEST_CASE("what is remembered of interrupted requests has an end") {
  Repeats repeats;
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
