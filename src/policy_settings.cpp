#include "src/policy_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/nearest_word.h"
#include "base/size_text.h"

namespace daxfs {
namespace {

using nlohmann::json;

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

// All that there is to say of a knob.
struct Setting {
  OptionHelp help;
  Outcome<void> (*parse)(std::string_view name, std::string_view value, PolicySettings& out);
  std::string (*format)(const GateOptions& gate);  // as parse() takes it
  json (*report)(const GateOptions& gate);

  constexpr std::string_view name() const { return help.name.substr(0, help.name.find('=')); }
};

// One of several words: how they are read, and how they are listed.
template <auto kMember, auto kParse, auto kWords>
constexpr Setting word_setting(OptionHelp help) {
  return {help,
          [](std::string_view name, std::string_view value, PolicySettings& out) -> Outcome<void> {
            const auto choice = kParse(value);
            if (!choice) {
              const std::string words = kWords();
              return bad(name, value, "no such choice" + did_you_mean(value, listed(words)),
                         "choose " + words);
            }
            out.gate.*kMember = *choice;
            return {};
          },
          [](const GateOptions& gate) { return std::string(to_string(gate.*kMember)); },
          [](const GateOptions& gate) { return json(to_string(gate.*kMember)); }};
}

// What a time of 0 means.
enum class Zero { is_a_time, is_no_time, is_none };

template <std::uint64_t GateOptions::*kMember, Zero kZero>
bool is_none(const GateOptions& gate) {
  return kZero == Zero::is_none && gate.*kMember == 0;
}

template <std::uint64_t GateOptions::*kMember, std::uint64_t kPlainUnitMs, Zero kZero>
constexpr Setting time_setting(OptionHelp help) {
  return {help,
          [](std::string_view name, std::string_view value, PolicySettings& out) -> Outcome<void> {
            if (kZero == Zero::is_none && value == kNone) {
              out.gate.*kMember = 0;
              return {};
            }
            const auto time = parse_duration_ms(value, kPlainUnitMs);
            const bool none_at_all = time && *time == 0 && kZero != Zero::is_a_time;
            if (!time || none_at_all) {
              return bad(name, value, time ? "no time at all" : time.error().text,
                         "give a time such as 1000ms or 2s");
            }
            out.gate.*kMember = *time;
            return {};
          },
          [](const GateOptions& gate) {
            return is_none<kMember, kZero>(gate) ? std::string(kNone)
                                                 : fmt::format("{}ms", gate.*kMember);
          },
          [](const GateOptions& gate) {
            return is_none<kMember, kZero>(gate) ? json(nullptr)
                                                 : json(static_cast<double>(gate.*kMember) / 1000);
          }};
}

std::string number_or_none(std::uint64_t value) {
  return value == 0 ? std::string(kNone) : std::to_string(value);
}
json reported_or_none(std::uint64_t value) { return value == 0 ? json(nullptr) : json(value); }

// In the order in which they are shown.
constexpr std::array kSettings = {
    word_setting<&GateOptions::pin_policy, parse_pin_policy, pin_policy_words>(
        {"pin_policy=refuse|defer|wait|break|ignore",
         "decides about a truncate or punch that meets long-term pins (default refuse). refuse: it "
         "fails with ETXTBSY; defer: it succeeds, and pinned blocks stay in limbo until they are "
         "unpinned; wait: it waits until the pins are gone; break: it tells the lease holders and "
         "waits for them; ignore: it frees the blocks at once (needs unsafe_demo)"}),
    word_setting<&GateOptions::on_timeout, parse_on_timeout,
                 [] { return std::string("refuse or defer"); }>(
        {"on_timeout=refuse|defer",
         "decides about a request whose waiting time is up (default refuse)"}),
    time_setting<&GateOptions::wait_timeout_ms, 1000, Zero::is_none>(
        {"wait_timeout=TIME|none",
         "how long pin_policy=wait waits (default none: no limit; a plain number is seconds)"}),
    time_setting<&GateOptions::break_timeout_ms, 1000, Zero::is_no_time>(
        {"break_timeout=TIME",
         "how long pin_policy=break waits (default 45s; a plain number is seconds)"}),
    time_setting<&GateOptions::short_timeout_ms, 1, Zero::is_a_time>(
        {"short_timeout=TIME",
         "how long a detach waits for short-term pins before they count as long-term "
         "(default 1000ms; a plain number is milliseconds)"}),
    time_setting<&GateOptions::exit_grace_ms, 1000, Zero::is_a_time>(
        {"exit_grace=TIME",
         "how long the pins of a process stay that has ended, while a device may still be at "
         "work for it; earlier once no page of the machine is pinned (default 40s; 0: no "
         "grace; a plain number is seconds)"}),
    word_setting<&GateOptions::longterm, parse_longterm,
                 [] { return std::string("allow, lease or forbid"); }>(
        {"longterm=allow|lease|forbid",
         "decides about a new long-term pin (default allow). lease: it needs a layout lease over "
         "the range, else EPERM; forbid: EOPNOTSUPP"}),
    Setting{{"pin_limit=SIZE|none",
             "how much each user id may have pinned; more is ENOMEM (default none)"},
            set_pin_limit,
            [](const GateOptions& gate) { return number_or_none(gate.pin_limit.value); },
            [](const GateOptions& gate) { return reported_or_none(gate.pin_limit.value); }},
    Setting{{"user_limit=N|none",
             "how many pins (more is ENOMEM), leases (ENOLCK) and waiting requests (EAGAIN) each "
             "user may have who is neither root nor the one who mounted (default 4096)"},
            set_user_limit,
            [](const GateOptions& gate) { return number_or_none(gate.user_limit); },
            [](const GateOptions& gate) { return reported_or_none(gate.user_limit); }},
    Setting{{"limbo_limit=SIZE|N%",
             "how much may be in limbo before defer behaves like refuse (default 25% of the pool)"},
            set_limbo_limit,
            // Nothing at all can only be said in percent.
            [](const GateOptions& gate) {
              const std::uint64_t limit = gate.limbo_limit.value;
              return limit == 0 ? std::string("0%") : std::to_string(limit);
            },
            [](const GateOptions& gate) { return json(gate.limbo_limit.value); }},
};

constexpr auto kHelp = [] {
  std::array<OptionHelp, kSettings.size()> help;
  std::ranges::transform(kSettings, help.begin(), &Setting::help);
  return help;
}();

const Setting* find_setting(std::string_view name) {
  const auto found = std::ranges::find(kSettings, name, &Setting::name);
  return found == kSettings.end() ? nullptr : &*found;
}

}  // namespace

std::span<const OptionHelp> policy_setting_help() { return kHelp; }

bool is_policy_setting(std::string_view name) { return find_setting(name) != nullptr; }

Outcome<void> parse_policy_setting(std::string_view name, std::string_view value,
                                   PolicySettings& out) {
  const Setting* setting = find_setting(name);
  if (setting == nullptr) {
    std::string names;
    for (const Setting& known : kSettings) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name());
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
  std::string text;
  for (const Setting& setting : kSettings) {
    text += fmt::format("{}={}\n", setting.name(), setting.format(gate));
  }
  return text;
}

json policy_json(const GateOptions& gate) {
  json report = json::object();
  for (const Setting& setting : kSettings) report[setting.name()] = setting.report(gate);
  return report;
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
    return problem(EINVAL, fmt::format("'{}' has an unknown unit '{}' (known: ms, s, m or min, h)",
                                       text, unit));
  }
  // A year is longer than anybody waits, and keeps deadlines far from overflowing.
  constexpr std::uint64_t kMost = 366ull * 24 * 3'600'000;
  if (number > kMost / factor)
    return problem(ERANGE, fmt::format("'{}' is longer than a year", text));
  return number * factor + thousandths * factor / 1000;
}

}  // namespace daxfs
