// The positions of the 2017 discussion (docs/thread.md), one small class each.
#include <cerrno>

#include "lease/policy.h"

namespace daxfs {
namespace {

// Later RFCs, 2019: the file's blocks are busy, as a running program's text is.
class Refuse final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::refuse); }
  Ruling judge(const Conflict& conflict, const GateOptions&) const override {
    // Who has a lease and no pin is told, and has nothing to lose.
    if (conflict.long_pinned.value == 0) return {.kind = Ruling::Kind::to_limbo};
    return {.kind = Ruling::Kind::refuse, .error = ETXTBSY};
  }
};

// Dave Chinner: go ahead, and keep the blocks allocated until the references go.
class Defer final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::defer); }
  Ruling judge(const Conflict& conflict, const GateOptions&) const override {
    // Nothing would be added to limbo, however full it is.
    if (conflict.long_pinned.value == 0) return {.kind = Ruling::Kind::to_limbo};
    const bool fits = conflict.limbo_now <= conflict.limbo_limit &&
                      conflict.long_pinned <= conflict.limbo_limit - conflict.limbo_now;
    if (!fits) return {.kind = Ruling::Kind::refuse, .error = ETXTBSY};
    return {.kind = Ruling::Kind::to_limbo};
  }
};

// Dan Williams: wait until the references are gone. (His loop held no lock while it waited; here
// the request does not even hold a thread.)
class Wait final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::wait); }
  Ruling judge(const Conflict& conflict, const GateOptions& options) const override {
    if (conflict.long_pinned.value == 0) return {.kind = Ruling::Kind::to_limbo};
    return {.kind = Ruling::Kind::park, .timeout_ms = options.wait_timeout_ms};
  }
};

// Christoph Hellwig, long run: holders have a layout lease, and give way when it is broken.
class Break final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::breaks); }
  Ruling judge(const Conflict&, const GateOptions& options) const override {
    return {.kind = Ruling::Kind::park, .timeout_ms = options.break_timeout_ms, .breaks = true};
  }
};

// What happens without a gate; for the demonstration.
class Ignore final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::ignore); }
  Ruling judge(const Conflict&, const GateOptions&) const override {
    return {.kind = Ruling::Kind::free_all};
  }
};

}  // namespace

const DetachPolicy& policy_for(PinPolicy policy) {
  static const Refuse refuse;
  static const Defer defer;
  static const Wait wait;
  static const Break breaks;
  static const Ignore ignore;
  switch (policy) {
    case PinPolicy::refuse:
      return refuse;
    case PinPolicy::defer:
      return defer;
    case PinPolicy::wait:
      return wait;
    case PinPolicy::breaks:
      return breaks;
    case PinPolicy::ignore:
      return ignore;
  }
  return refuse;
}

}  // namespace daxfs
