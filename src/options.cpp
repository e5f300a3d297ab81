#include "src/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "blockmap/size_text.h"

namespace daxfs {
namespace {

constexpr std::array kHelp = {
    OptionHelp{"pin_policy=refuse|defer|ignore",
               "what a truncate or punch does that meets long-term pins (default refuse): refuse: "
               "ETXTBSY; "
               "defer: succeeds, pinned blocks go to limbo until unpinned; ignore: frees them at "
               "once (needs unsafe_demo)"},
    OptionHelp{"short_timeout=TIME",
               "how long a detach waits for short-term pins before they count as long-term "
               "(default 1000ms; a "
               "plain number is milliseconds)"},
    OptionHelp{
        "limbo_limit=SIZE|N%",
        "how much may be in limbo before defer behaves like refuse (default 25% of the pool)"},
    OptionHelp{"longterm=allow", "taking a long-term pin is granted (default)"},
    OptionHelp{"unsafe_demo",
               "permits pin_policy=ignore, which corrupts the memory of holders on purpose"},
    OptionHelp{"nonempty", "the mount point need not be empty; what is there is covered"},
    OptionHelp{"ro, rw", "read-only, or read-write (default)"},
    OptionHelp{"relatime, strictatime, noatime",
               "when reading updates access times (default relatime)"},
    OptionHelp{"[no]suid, [no]dev, [no]exec, sync, dirsync", "as for any mount, see mount(8)"},
};

// Left to mount(8), fstab and systemd, or without meaning here.
constexpr std::array<std::string_view, 17> kIgnored = {
    "auto",     "noauto",     "user",    "nouser",   "users",      "owner",
    "group",    "nofail",     "_netdev", "defaults", "nodiratime", "diratime",
    "lazytime", "nolazytime", "async",   "silent",   "loud"};

constexpr std::array<std::string_view, 8> kKernel = {"suid", "nosuid", "dev",  "nodev",
                                                     "exec", "noexec", "sync", "dirsync"};

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::unexpected<Problem> bad(std::string_view option, std::string_view why,
                             std::string_view way_out) {
  return problem(EINVAL, fmt::format("mount option '{}': {}; {}", option, why, way_out));
}

Outcome<void> parse_limbo_limit(std::string_view option, std::string_view value,
                                MountOptions& out) {
  if (value.ends_with('%')) {
    std::uint32_t percent = 0;
    const char* end = value.data() + value.size() - 1;
    const auto parsed = std::from_chars(value.data(), end, percent);
    if (parsed.ec != std::errc() || parsed.ptr != end || percent > 100) {
      return bad(option, "not a percentage", "give 0% to 100%, or a size such as 512M");
    }
    out.limbo_limit_percent = percent;
    out.limbo_limit_bytes = ByteCount(0);
    return {};
  }
  const auto size = parse_size(value);
  if (!size)
    return bad(option, size.error().text, "give a size such as 512M, or a percentage such as 25%");
  out.limbo_limit_bytes = *size;
  return {};
}

Outcome<void> parse_one(std::string_view option, MountOptions& out) {
  const auto equals = option.find('=');
  const std::string_view name = option.substr(0, equals);
  const bool has_value = equals != std::string_view::npos;
  const std::string_view value = has_value ? option.substr(equals + 1) : std::string_view();

  if (name.starts_with("x-") || name.starts_with("X-") || contains(kIgnored, option)) return {};
  if (contains(kKernel, option)) {
    out.kernel.emplace_back(option);
    return {};
  }
  if (option == "ro" || option == "rw") {
    out.read_only = option == "ro";
    return {};
  }
  if (option == "relatime" || option == "norelatime" || option == "atime" ||
      option == "nostrictatime") {
    out.atime = AtimeMode::relatime;
    return {};
  }
  if (option == "strictatime") {
    out.atime = AtimeMode::strictatime;
    return {};
  }
  if (option == "noatime") {
    out.atime = AtimeMode::noatime;
    return {};
  }
  if (option == "nonempty") {
    out.nonempty = true;
    return {};
  }
  if (option == "unsafe_demo") {
    out.unsafe_demo = true;
    return {};
  }
  if (name == "pin_policy") {
    const auto policy = parse_pin_policy(value);
    if (!policy) return bad(option, "no such policy", "choose refuse, defer or ignore");
    out.gate.pin_policy = *policy;
    return {};
  }
  if (name == "longterm") {
    if (value != "allow") return bad(option, "not available", "choose allow");
    return {};
  }
  if (name == "short_timeout") {
    const auto time = parse_duration_ms(value, 1);
    if (!time) return bad(option, time.error().text, "give a time such as 1000ms or 2s");
    out.gate.short_timeout_ms = *time;
    return {};
  }
  if (name == "limbo_limit") return parse_limbo_limit(option, value, out);
  return problem(
      EINVAL, fmt::format("mount option '{}': unknown; `daxfs --help` lists the options", option));
}

}  // namespace

Outcome<MountOptions> parse_mount_options(std::string_view text) {
  MountOptions out;
  while (!text.empty()) {
    const auto comma = text.find(',');
    const std::string_view option = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    if (option.empty()) continue;
    if (auto parsed = parse_one(option, out); !parsed) return std::unexpected(parsed.error());
  }
  if (out.gate.pin_policy == PinPolicy::ignore && !out.unsafe_demo) {
    return bad("pin_policy=ignore", "it frees pinned blocks and so corrupts other files",
               "add unsafe_demo if that is what you want to see");
  }
  return out;
}

Outcome<std::uint64_t> parse_duration_ms(std::string_view text, std::uint64_t plain_unit_ms) {
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || parsed.ec != std::errc()) {
    return problem(EINVAL, fmt::format("'{}' is not a time", text));
  }
  const std::string_view unit(parsed.ptr,
                              static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
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
  return number * factor;
}

std::span<const OptionHelp> mount_option_help() { return kHelp; }

}  // namespace daxfs
