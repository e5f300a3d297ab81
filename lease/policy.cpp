#include "lease/policy.h"

namespace daxfs {

std::string_view to_string(PinPolicy policy) {
  switch (policy) {
    case PinPolicy::refuse:
      return "refuse";
    case PinPolicy::defer:
      return "defer";
    case PinPolicy::ignore:
      return "ignore";
  }
  return "?";
}

std::string_view to_string(OnTimeout action) {
  switch (action) {
    case OnTimeout::refuse:
      return "refuse";
    case OnTimeout::defer:
      return "defer";
  }
  return "?";
}

std::string_view to_string(LongTerm mode) {
  switch (mode) {
    case LongTerm::allow:
      return "allow";
  }
  return "?";
}

std::optional<PinPolicy> parse_pin_policy(std::string_view word) {
  for (const PinPolicy policy : {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore}) {
    if (word == to_string(policy)) return policy;
  }
  return std::nullopt;
}

}  // namespace daxfs
