// The positions of the thread, one small class each.
#include <cerrno>

#include "lease/policy.h"

namespace daxfs {
namespace {

// Later RFCs, 2019: the file's blocks are busy, as a running program's text is.
class Refuse final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::refuse); }
  Ruling judge(const Conflict&, const GateOptions&) const override {
    return {.kind = Ruling::Kind::refuse, .error = ETXTBSY};
  }
};

// Dave Chinner: go ahead, and keep the blocks allocated until the references go.
class Defer final : public DetachPolicy {
 public:
  std::string_view name() const override { return to_string(PinPolicy::defer); }
  Ruling judge(const Conflict& conflict, const GateOptions&) const override {
    const bool fits = conflict.limbo_now <= conflict.limbo_limit &&
                      conflict.long_pinned <= conflict.limbo_limit - conflict.limbo_now;
    if (!fits) return {.kind = Ruling::Kind::refuse, .error = ETXTBSY};
    return {.kind = Ruling::Kind::to_limbo};
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
  static const Ignore ignore;
  switch (policy) {
    case PinPolicy::refuse:
      return refuse;
    case PinPolicy::defer:
      return defer;
    case PinPolicy::ignore:
      return ignore;
  }
  return refuse;
}

}  // namespace daxfs
