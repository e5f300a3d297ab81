// What the administrator chose, and what each pin policy says to a detach.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"

namespace daxfs {

// pin_policy= (docs/promises.md). `breaks` is the word "break", which C++ keeps for itself.
enum class PinPolicy : std::uint8_t { refuse, defer, wait, breaks, ignore };
// on_timeout=
enum class OnTimeout : std::uint8_t { refuse, defer };
// longterm=
enum class LongTerm : std::uint8_t { allow, lease, forbid };

std::string_view to_string(PinPolicy policy);
std::string_view to_string(OnTimeout action);
std::string_view to_string(LongTerm mode);
std::optional<PinPolicy> parse_pin_policy(std::string_view word);
std::optional<OnTimeout> parse_on_timeout(std::string_view word);
std::optional<LongTerm> parse_longterm(std::string_view word);
// "refuse, defer, ...": for messages about a word that is none of them.
std::string pin_policy_words();

// Everything the gate can be told, live.
struct GateOptions {
  PinPolicy pin_policy = PinPolicy::refuse;
  OnTimeout on_timeout = OnTimeout::refuse;
  LongTerm longterm = LongTerm::allow;
  std::uint64_t short_timeout_ms = 1000;
  std::uint64_t wait_timeout_ms = 0;  // 0: no limit
  std::uint64_t break_timeout_ms = 45'000;
  // How long pins of a process that has ended stay, unless it is certain earlier that nothing works
  // for it any more. 0: no grace. What libdaxfs mapped still keeps its pin until it is unmapped.
  // More than the 30 s after which the block layer gives a request up. For the gate's user
  // (src/grace.h): the gate keeps it with the other settings, and does not look at it.
  std::uint64_t exit_grace_ms = 40'000;
  ByteCount pin_limit{0};  // per user id; 0: none
  ByteCount limbo_limit{UINT64_MAX};
  // Limit for each of pins, leases and waiting requests, per user that GateHooks::is_limited names;
  // 0: none.
  std::uint64_t user_limit = 4096;
};

// What stands in the way of one detach request.
struct Conflict {
  BlockCount long_pinned;  // blocks with at least one long-term pin (or a short one past its time)
  std::uint64_t leases = 0;  // shared leases of others over the range
  BlockCount limbo_now;      // in limbo already, or on their way there
  BlockCount limbo_limit;
};

// How a policy answers a conflict.
struct Ruling {
  enum class Kind : std::uint8_t {
    refuse,    // fail with `error`
    proceed,   // go ahead; blocks that are pinned, if any are, go to limbo until they are unpinned
    free_all,  // go ahead; pinned blocks are freed (unsafe demonstration)
    park,      // wait for the pins to go, at most until `timeout_ms` (0: no limit) has passed
  };
  Kind kind = Kind::refuse;
  int error = 0;
  std::uint64_t timeout_ms = 0;
  // With park: tell the lease holders, and wait for their leases, too. (They are told of a request
  // that goes ahead in any case: the gate sees to that.)
  bool breaks = false;
};

// How a policy answers: it rules, the gate acts. Asked when pins or leases of others are in the
// way, with the options in force now; a policy that parks takes its timeout from them. What happens
// when that has passed (on_timeout) is the gate's business, not the policy's.
Ruling rule(PinPolicy policy, const Conflict& conflict, const GateOptions& options);

}  // namespace daxfs
