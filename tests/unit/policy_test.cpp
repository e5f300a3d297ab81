// What each policy says to each conflict.
#include "lease/policy.h"

#include "tests/unit/catch.h"

using namespace daxfs;

TEST_CASE("policies: every word is read as it is written, and no other") {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore}) {
    CHECK(parse_pin_policy(to_string(policy)) == policy);
  }
  for (const char* word : {"", "Refuse", "refuse ", "deferred", "?"}) {
    CHECK_FALSE(parse_pin_policy(word));
  }
  CHECK(to_string(OnTimeout::refuse) == "refuse");
  CHECK(to_string(OnTimeout::defer) == "defer");
  CHECK(to_string(LongTerm::allow) == "allow");
}

TEST_CASE("policies: each rules pins and leases as docs/gate.md says") {
  using Kind = Ruling::Kind;
  struct Row {
    PinPolicy policy;
    std::uint64_t pinned, limbo, limit;
    Kind kind;
    int error;
    std::uint64_t timeout_ms = 0;
    bool breaks = false;
  };
  const std::uint64_t max = UINT64_MAX;
  const Row rows[] = {
      {PinPolicy::refuse, 1, 0, max, Kind::refuse, ETXTBSY},
      {PinPolicy::refuse, 1, 0, 0, Kind::refuse, ETXTBSY},
      {PinPolicy::defer, 1, 0, max, Kind::proceed, 0},
      {PinPolicy::defer, max, 0, max, Kind::proceed, 0},
      {PinPolicy::defer, max, 1, max, Kind::refuse, ETXTBSY},
      {PinPolicy::defer, 10, 90, 100, Kind::proceed, 0},
      {PinPolicy::defer, 11, 90, 100, Kind::refuse, ETXTBSY},
      {PinPolicy::defer, 1, 0, 0, Kind::refuse, ETXTBSY},
      {PinPolicy::defer, 1, 200, 100, Kind::refuse, ETXTBSY},
      {PinPolicy::defer, 0, 200, 100, Kind::proceed, 0},  // leases alone
      {PinPolicy::refuse, 0, 200, 100, Kind::proceed, 0},
      {PinPolicy::wait, 1, 200, 100, Kind::park, 0, 7},
      {PinPolicy::wait, 0, 200, 100, Kind::proceed, 0},
      {PinPolicy::breaks, 1, 200, 100, Kind::park, 0, 8, true},
      {PinPolicy::breaks, 0, 200, 100, Kind::park, 0, 8, true},
      {PinPolicy::ignore, 1, 0, 0, Kind::free_all, 0},
      {PinPolicy::ignore, max, max, 0, Kind::free_all, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(to_string(row.policy), row.pinned, row.limbo, row.limit);
    const Ruling ruling = rule(row.policy,
                               {.long_pinned = BlockCount(row.pinned),
                                .limbo_now = BlockCount(row.limbo),
                                .limbo_limit = BlockCount(row.limit)},
                               GateOptions{.wait_timeout_ms = 7, .break_timeout_ms = 8});
    CHECK(ruling.kind == row.kind);
    CHECK(ruling.error == row.error);
    CHECK(ruling.timeout_ms == row.timeout_ms);
    CHECK(ruling.breaks == row.breaks);
  }
}
