#include "src/policy_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <vector>

#include "base/nearest_word.h"
#include "base/size_text.h"

namespace daxfs {
namespace {

constexpr std::string_view kNone = "none";

std::unexpected<Problem> bad(std::string_view name, std::string_view value, std::string_view why,
                             std::string_view way_out) {
  return problem(EINVAL, fmt::format("'{}={}': {}; {}", name, value, why, way_out));
}

// The words of "refuse, defer or wait".
std::vector<std::string> listed(std::string_view sentence) {
  std::vector<std::string> words;
  while (!sentence.empty()) {
    const std::string_view word = sentence.substr(0, sentence.find_first_of(", "));
    sentence.remove_prefix(std::min(sentence.size(), word.size() + 1));
    if (!word.empty() && word != "or") words.emplace_back(word);
  }
  return words;
}

template <class Choice>
Outcome<void> choose(std::string_view name, std::string_view value,
                     const std::optional<Choice>& choice, const std::string& words, Choice& out) {
  if (!choice) {
    return bad(name, value, "no such choice" + did_you_mean(value, listed(words)),
               "choose " + words);
  }
  out = *choice;
  return {};
}

Outcome<void> set_time(std::string_view name, std::string_view value, std::uint64_t plain_unit_ms,
                       bool may_be_zero, std::uint64_t& out) {
  const auto time = parse_duration_ms(value, plain_unit_ms);
  if (!time) return bad(name, value, time.error().text, "give a time such as 1000ms or 2s");
  if (*time == 0 && !may_be_zero) {
    return bad(name, value, "no time at all", "give a time such as 1000ms or 2s");
  }
  out = *time;
  return {};
}

Outcome<void> set_limbo_limit(std::string_view name, std::string_view value, PolicySettings& out) {
  if (value.ends_with('%')) {
    std::uint32_t percent = 0;
    const char* end = value.data() + value.size() - 1;
    const auto parsed = std::from_chars(value.data(), end, percent);
    if (parsed.ec != std::errc() || parsed.ptr != end || percent > 100) {
      return bad(name, value, "not a percentage", "give 0% to 100%, or a size such as 512M");
    }
    out.limbo_limit_percent = percent;
    return {};
  }
  const auto size = parse_size(value);
  if (!size) {
    return bad(name, value, size.error().text,
               "give a size such as 512M, or a percentage such as 25%");
  }
  out.limbo_limit_percent.reset();
  out.gate.limbo_limit = *size;
  return {};
}

Outcome<void> set_pin_limit(std::string_view name, std::string_view value, PolicySettings& out) {
  if (value == kNone) {
    out.gate.pin_limit = ByteCount(0);
    return {};
  }
  const auto size = parse_size(value);
  if (!size) return bad(name, value, size.error().text, "give a size such as 512M, or none");
  out.gate.pin_limit = *size;
  return {};
}

Outcome<void> set_user_limit(std::string_view name, std::string_view value, PolicySettings& out) {
  if (value == kNone) {
    out.gate.user_limit = 0;
    return {};
  }
  std::uint64_t count = 0;
  const char* const end = value.data() + value.size();
  const auto parsed = std::from_chars(value.data(), end, count);
  if (parsed.ec != std::errc() || parsed.ptr != end || count == 0) {
    return bad(name, value, "not a number of at least 1", "give a number such as 4096, or none");
  }
  out.gate.user_limit = count;
  return {};
}

using Parser = Outcome<void> (*)(std::string_view name, std::string_view value,
                                 PolicySettings& out);
struct Setting {
  std::string_view name;
  Parser parse;
};

constexpr std::array kSettings = {
    Setting{"pin_policy",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return choose(name, value, parse_pin_policy(value), pin_policy_words(),
                            out.gate.pin_policy);
            }},
    Setting{"on_timeout",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return choose(name, value, parse_on_timeout(value), "refuse or defer",
                            out.gate.on_timeout);
            }},
    Setting{"longterm",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return choose(name, value, parse_longterm(value), "allow, lease or forbid",
                            out.gate.longterm);
            }},
    Setting{
        "wait_timeout",
        [](std::string_view name, std::string_view value, PolicySettings& out) -> Outcome<void> {
          if (value == kNone) {
            out.gate.wait_timeout_ms = 0;
            return {};
          }
          return set_time(name, value, 1000, false, out.gate.wait_timeout_ms);
        }},
    Setting{"break_timeout",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return set_time(name, value, 1000, false, out.gate.break_timeout_ms);
            }},
    Setting{"short_timeout",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return set_time(name, value, 1, true, out.gate.short_timeout_ms);
            }},
    Setting{"exit_grace",
            [](std::string_view name, std::string_view value, PolicySettings& out) {
              return set_time(name, value, 1000, true, out.gate.exit_grace_ms);
            }},
    Setting{"pin_limit", set_pin_limit},
    Setting{"user_limit", set_user_limit},
    Setting{"limbo_limit", set_limbo_limit},
};

const Setting* find_setting(std::string_view name) {
  const auto found = std::find_if(kSettings.begin(), kSettings.end(),
                                  [&](const Setting& setting) { return setting.name == name; });
  return found == kSettings.end() ? nullptr : &*found;
}

}  // namespace

bool is_policy_setting(std::string_view name) { return find_setting(name) != nullptr; }

Outcome<void> parse_policy_setting(std::string_view name, std::string_view value,
                                   PolicySettings& out) {
  const Setting* setting = find_setting(name);
  if (setting == nullptr) {
    std::string names;
    for (const Setting& known : kSettings) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
    }
    return problem(EINVAL, fmt::format("'{}': no such setting{}; there are {}", name,
                                       did_you_mean(name, listed(names)), names));
  }
  return setting->parse(name, value, out);
}

Outcome<void> check_policy_settings(const GateOptions& gate, bool unsafe_demo) {
  if (gate.pin_policy != PinPolicy::ignore || unsafe_demo) return {};
  return bad("pin_policy", to_string(PinPolicy::ignore),
             "it frees pinned blocks and so corrupts other files",
             "mount with unsafe_demo if that is what you want to see");
}

Outcome<GateOptions> change_policy(const GateOptions& now, std::string_view text, bool unsafe_demo,
                                   ByteCount pool) {
  constexpr std::string_view kSeparators = ", \t\n";
  PolicySettings settings{.gate = now, .limbo_limit_percent = std::nullopt};
  bool any = false;
  while (true) {
    const auto start = text.find_first_not_of(kSeparators);
    if (start == std::string_view::npos) break;
    text = text.substr(start);
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    text = text.substr(word.size());
    const auto equals = word.find('=');
    const bool alone = equals == std::string_view::npos;
    const auto parsed =
        alone ? parse_policy_setting("pin_policy", word, settings)
              : parse_policy_setting(word.substr(0, equals), word.substr(equals + 1), settings);
    if (!parsed) return std::unexpected(parsed.error());
    any = true;
  }
  if (!any) {
    return problem(EINVAL,
                   "nothing to set; give a policy such as defer, or settings such as "
                   "wait_timeout=5s");
  }
  const GateOptions changed = resolve(settings, pool);
  if (const auto allowed = check_policy_settings(changed, unsafe_demo); !allowed) {
    return std::unexpected(allowed.error());
  }
  return changed;
}

GateOptions resolve(const PolicySettings& settings, ByteCount pool) {
  GateOptions gate = settings.gate;
  if (settings.limbo_limit_percent) {
    const std::uint64_t percent = *settings.limbo_limit_percent;
    // In two parts, so that nothing overflows and nothing is lost.
    gate.limbo_limit = ByteCount(pool.value / 100 * percent + pool.value % 100 * percent / 100);
  }
  return gate;
}

std::string format_policy(const GateOptions& gate) {
  const auto or_none = [](std::uint64_t value, std::string_view unit) {
    return value == 0 ? std::string(kNone) : fmt::format("{}{}", value, unit);
  };
  // A limbo_limit of nothing at all can only be said in percent.
  const std::string limbo =
      gate.limbo_limit.value == 0 ? "0%" : fmt::format("{}", gate.limbo_limit.value);
  return fmt::format(
      "pin_policy={}\non_timeout={}\nwait_timeout={}\nbreak_timeout={}ms\nshort_timeout={}ms\n"
      "exit_grace={}ms\nlongterm={}\npin_limit={}\nuser_limit={}\nlimbo_limit={}\n",
      to_string(gate.pin_policy), to_string(gate.on_timeout), or_none(gate.wait_timeout_ms, "ms"),
      gate.break_timeout_ms, gate.short_timeout_ms, gate.exit_grace_ms, to_string(gate.longterm),
      or_none(gate.pin_limit.value, ""), or_none(gate.user_limit, ""), limbo);
}

Outcome<std::uint64_t> parse_duration_ms(std::string_view text, std::uint64_t plain_unit_ms) {
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || parsed.ec != std::errc()) {
    return problem(EINVAL, fmt::format("'{}' is not a time", text));
  }
  std::string_view unit(parsed.ptr,
                        static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
  // As reports print times: 0.5, 45.0. More digits than milliseconds have are cut off.
  std::uint64_t thousandths = 0;
  if (unit.starts_with('.')) {
    std::size_t digits = 1;
    for (; digits < unit.size() && unit[digits] >= '0' && unit[digits] <= '9'; ++digits) {
      if (digits <= 3)
        thousandths = thousandths * 10 + static_cast<std::uint64_t>(unit[digits] - '0');
    }
    if (digits == 1) return problem(EINVAL, fmt::format("'{}' is not a time", text));
    for (std::size_t missing = digits; missing <= 3; ++missing) thousandths *= 10;
    unit.remove_prefix(digits);
  }
  std::uint64_t factor = 0;
  if (unit.empty()) {
    factor = plain_unit_ms;
  } else if (unit == "ms") {
    factor = 1;
  } else if (unit == "s") {
    factor = 1000;
  } else if (unit == "m" || unit == "min") {
    factor = 60'000;
  } else if (unit == "h") {
    factor = 3'600'000;
  } else {
    return problem(EINVAL,
                   fmt::format("'{}' has an unknown unit '{}' (known: ms, s, m, h)", text, unit));
  }
  // A year is longer than anybody waits, and keeps deadlines far from overflowing.
  constexpr std::uint64_t most = 366ull * 24 * 3'600'000;
  if (number > most / factor)
    return problem(ERANGE, fmt::format("'{}' is longer than a year", text));
  return number * factor + thousandths * factor / 1000;
}

}  // namespace daxfs
