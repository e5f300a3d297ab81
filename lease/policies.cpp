// The positions of the 2017 discussion (docs/thread.md), a case each.
#include <cerrno>

#include "lease/policy.h"

namespace daxfs {
namespace {

constexpr Ruling kProceed{.kind = Ruling::Kind::proceed};
constexpr Ruling kRefuse{.kind = Ruling::Kind::refuse, .error = ETXTBSY};

bool fits_into_limbo(const Conflict& conflict) {
  return conflict.limbo_now <= conflict.limbo_limit &&
         conflict.long_pinned <= conflict.limbo_limit - conflict.limbo_now;
}

}  // namespace

Ruling rule(PinPolicy policy, const Conflict& conflict, const GateOptions& options) {
  // With no pin in the way, a request goes ahead (nothing is added to limbo, however full that is)
  // and lease holders are told. Only `break` waits for leases.
  const bool pinned = conflict.long_pinned.value > 0;
  switch (policy) {
    // Later RFCs, 2019: the file's blocks are busy, as a running program's text is.
    case PinPolicy::refuse:
      return pinned ? kRefuse : kProceed;
    // Dave Chinner: go ahead, and keep the blocks allocated until the references go.
    case PinPolicy::defer:
      return pinned && !fits_into_limbo(conflict) ? kRefuse : kProceed;
    // Dan Williams: wait until the references are gone. (His loop held no lock while it waited;
    // here the request does not even hold a thread.)
    case PinPolicy::wait:
      if (!pinned) return kProceed;
      return {.kind = Ruling::Kind::park, .timeout_ms = options.wait_timeout_ms};
    // Christoph Hellwig, long run: holders have a layout lease, and give way when it is broken.
    case PinPolicy::breaks:
      return {.kind = Ruling::Kind::park, .timeout_ms = options.break_timeout_ms, .breaks = true};
    // What happens without a gate; for the demonstration.
    case PinPolicy::ignore:
      return {.kind = Ruling::Kind::free_all};
  }
  return kRefuse;
}

}  // namespace daxfs
