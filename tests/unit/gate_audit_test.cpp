// What the gate says about its own books.
#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

// Pieces of limbo in an area, and how many pins cover each.
std::vector<std::pair<PoolRange, std::uint32_t>> limbo_of(const Gate& gate, PoolRange area) {
  std::vector<std::pair<PoolRange, std::uint32_t>> pieces;
  gate.limbo_within(area, [&](PoolRange piece, PinCounts pins) {
    pieces.push_back({piece, pins.long_term + pins.short_term});
  });
  return pieces;
}

}  // namespace

TEST_CASE("limbo is told by area, with its pins") {
  GateFixture f({.pin_policy = PinPolicy::defer});
  const HolderId holder = f.gate.new_holder();
  f.pinned(holder, {blocks(10, 10)}, 7);
  f.pinned(holder, {blocks(15, 10)}, 7);
  CHECK(limbo_of(f.gate, blocks(0, 100)).empty());
  REQUIRE(f.punch({blocks(0, 30)}) == Verdict::proceed);
  using Pieces = std::vector<std::pair<PoolRange, std::uint32_t>>;
  CHECK(limbo_of(f.gate, blocks(0, 100)) ==
        Pieces{{blocks(10, 5), 1}, {blocks(15, 5), 2}, {blocks(20, 5), 1}});
  CHECK(limbo_of(f.gate, blocks(12, 5)) == Pieces{{blocks(12, 3), 1}, {blocks(15, 2), 2}});
  CHECK(limbo_of(f.gate, blocks(25, 5)).empty());
  const std::vector<PoolRange> runs{blocks(0, 10), blocks(25, 100), blocks(24, 1)};
  CHECK(f.gate.find_limbo(runs) == blocks(24, 1));
  CHECK_FALSE(f.gate.find_limbo(std::span(runs).first(2)));
}

TEST_CASE("what has left limbo is known until it has reached the free space") {
  const std::vector<PoolRange> run{blocks(10, 5)};
  Gate* gate = nullptr;
  int freed = 0;
  Gate real({.pin_policy = PinPolicy::defer},
            {.free_blocks = [&](std::span<const PoolRange> ranges) {
              ++freed;
              CHECK(ranges.front() == run.front());
              CHECK(gate->totals().limbo.value == 0);
              CHECK_FALSE(gate->find_limbo(run));
              CHECK(gate->limbo_within(run.front(), [](PoolRange, PinCounts) {}) == run);
            }});
  gate = &real;
  const bool by_drop = GENERATE(false, true);
  const HolderId holder = real.new_holder();
  const TicketRef ticket = real.begin([] {});
  const auto pin = real.pin(ticket, {.holder = holder,
                                     .inode = InodeNumber{1},
                                     .offset = FileOffset(0),
                                     .length = ByteCount(5 * kBlockSize),
                                     .blocks = run,
                                     .requester = {7, 0}});
  REQUIRE(granted(pin));
  real.end(ticket);
  real.detached_unasked(run);
  CHECK(freed == 0);
  if (by_drop) {
    CHECK(real.drop(holder).size() == 1);
  } else {
    CHECK(real.unpin(holder, **pin));
  }
  CHECK(freed == 1);
  CHECK(real.limbo_within(run.front(), [](PoolRange, PinCounts) {}).empty());
}

TEST_CASE("pins are told one after the other, and all are counted") {
  GateFixture f;
  const HolderId holder = f.gate.new_holder();
  std::vector<PinId> all;
  for (std::uint64_t i = 0; i < 10; ++i) {
    all.push_back(f.pinned(holder, {blocks(10 * i, 3), blocks(10 * i + 5, 2)}, 7,
                           i % 2 == 0 ? PinKind::long_term : PinKind::short_term));
  }
  std::vector<PinId> seen;
  std::optional<PinId> last = PinId{0};
  while (last) {
    last = f.gate.audit_pins(*last, 3,
                             [&](const PinInfo& pin, std::span<const PoolRange> runs,
                                 std::optional<PoolRange> uncounted) {
                               seen.push_back(pin.id);
                               CHECK(runs.size() == 2);
                               CHECK_FALSE(uncounted);
                             });
  }
  CHECK(seen == all);
}
