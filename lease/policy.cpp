#include "lease/policy.h"

#include <array>
#include <span>

namespace daxfs {
namespace {

constexpr std::array kPinPolicies{PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                                  PinPolicy::breaks, PinPolicy::ignore};
constexpr std::array kOnTimeouts{OnTimeout::refuse, OnTimeout::defer};
constexpr std::array kLongTerms{LongTerm::allow, LongTerm::lease, LongTerm::forbid};

template <class Choice, std::size_t N>
std::optional<Choice> find_word(const std::array<Choice, N>& choices, std::string_view word) {
  for (const Choice choice : choices) {
    if (word == to_string(choice)) return choice;
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(PinPolicy policy) {
  switch (policy) {
    case PinPolicy::refuse:
      return "refuse";
    case PinPolicy::defer:
      return "defer";
    case PinPolicy::wait:
      return "wait";
    case PinPolicy::breaks:
      return "break";
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
    case LongTerm::lease:
      return "lease";
    case LongTerm::forbid:
      return "forbid";
  }
  return "?";
}

std::optional<PinPolicy> parse_pin_policy(std::string_view word) {
  return find_word(kPinPolicies, word);
}

std::optional<OnTimeout> parse_on_timeout(std::string_view word) {
  return find_word(kOnTimeouts, word);
}

std::optional<LongTerm> parse_longterm(std::string_view word) {
  return find_word(kLongTerms, word);
}

std::string pin_policy_words() {
  std::string words;
  for (const PinPolicy policy : kPinPolicies) {
    if (!words.empty()) words += policy == kPinPolicies.back() ? " or " : ", ";
    words += to_string(policy);
  }
  return words;
}

}  // namespace daxfs
