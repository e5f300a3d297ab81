#include "src/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/nearest_word.h"

namespace daxfs {
namespace {

// Beside the settings of the policy.
constexpr std::array kHelp = {
    OptionHelp{"unsafe_demo",
               "permits pin_policy=ignore, which corrupts the memory of holders on purpose"},
    OptionHelp{"direct",
               "EXPERIMENTAL: programs that can open the pool for writing may copy from and into "
               "files by themselves (daxfs_attach())"},
    OptionHelp{"nonempty", "the mount point need not be empty; what is there is covered"},
    OptionHelp{"cache=MODE",
               "what write(2) through the kernel's page cache does: through (default): durable at "
               "return; writeback: small writes are fast, and durable at fsync; none: no page "
               "cache"},
    OptionHelp{"ro, rw", "read-only, or read-write (default)"},
    OptionHelp{"[no]acl", "whether there are POSIX access control lists (default acl)"},
    OptionHelp{"relatime, strictatime, noatime",
               "when reading updates access times (default relatime)"},
    OptionHelp{
        "allow_other",
        "every user may use the mount, not only the one who mounted it; always so if root mounts"},
    OptionHelp{"[no]suid, [no]dev",
               "whether set-user-id programs and device nodes work (default of root's mounts: yes "
               "if only root can write the pool, else no)"},
    OptionHelp{"[no]exec, sync, dirsync", "as for any mount, see mount(8)"},
};

constexpr std::array kCacheModes = {CacheMode::through, CacheMode::writeback, CacheMode::none};

// Left to mount(8), fstab and systemd, or without meaning here.
constexpr std::array<std::string_view, 17> kIgnored = {
    "auto",     "noauto",     "user",    "nouser",   "users",      "owner",
    "group",    "nofail",     "_netdev", "defaults", "nodiratime", "diratime",
    "lazytime", "nolazytime", "async",   "silent",   "loud"};

constexpr std::array<std::string_view, 10> kKernel = {
    "suid",   "nosuid", "dev",     "nodev",       "exec",
    "noexec", "sync",   "dirsync", "allow_other", "default_permissions"};

// For a remount mount(8) adds these, as the kernel shows them.
constexpr std::array<std::string_view, 8> kShown = {"user_id",  "group_id", "rootmode", "fd",
                                                    "max_read", "blksize",  "fsname",   "subtype"};

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The names of all of them: up to `=` or `,`.
std::vector<std::string> option_names() {
  std::vector<std::string> names;
  for (const OptionHelp& option : mount_option_help()) {
    std::string_view rest = option.name;
    while (!rest.empty()) {
      const std::string_view one = rest.substr(0, rest.find(", "));
      rest.remove_prefix(std::min(rest.size(), one.size() + 2));
      const std::string_view word = one.substr(one.starts_with("[no]") ? 4 : 0);
      names.emplace_back(word.substr(0, word.find('=')));
    }
  }
  return names;
}

Outcome<void> parse_cache(std::string_view value, MountOptions& out) {
  for (const CacheMode mode : kCacheModes) {
    if (value != to_string(mode)) continue;
    out.cache = mode;
    out.says_cache = true;
    return {};
  }
  std::vector<std::string> words;
  for (const CacheMode mode : kCacheModes) words.emplace_back(to_string(mode));
  return problem(EINVAL,
                 fmt::format("mount option 'cache={}': unknown{}; write through, writeback or none",
                             value, did_you_mean(value, words)));
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
    out.says_access = true;
    return {};
  }
  if (option == "acl" || option == "noacl") {
    out.acl = option == "acl";
    out.says_acl = true;
    return {};
  }
  if (option == "relatime" || option == "norelatime" || option == "atime" ||
      option == "nostrictatime") {
    out.atime = AtimeMode::relatime;
    out.says_atime = true;
    return {};
  }
  if (option == "strictatime") {
    out.atime = AtimeMode::strictatime;
    out.says_atime = true;
    return {};
  }
  if (option == "noatime") {
    out.atime = AtimeMode::noatime;
    out.says_atime = true;
    return {};
  }
  if (name == "cache") return parse_cache(value, out);
  if (option == "remount") {
    out.remount = true;
    return {};
  }
  if (option == "nonempty") {
    out.nonempty = true;
    return {};
  }
  if (option == "direct") {
    out.direct = true;
    return {};
  }
  if (option == "unsafe_demo") {
    out.unsafe_demo = true;
    return {};
  }
  if (is_policy_setting(name)) {
    if (auto parsed = parse_policy_setting(name, value, out); !parsed) {
      return problem(parsed.error().code, "mount option " + parsed.error().text);
    }
    out.policy_words.emplace_back(option);
    return {};
  }
  return problem(
      EINVAL, fmt::format("mount option '{}': unknown{}; `daxfs --help` lists the options", option,
                          did_you_mean(name, option_names())));
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const auto comma = text.find(',');
    if (comma != 0) words.push_back(text.substr(0, comma));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  return words;
}

// mount(8) begins its list with rw or ro, and mount.fuse3 ends it with dev and suid unless it reads
// their opposites: nobody has asked for these two. (mount(8) hands on no others.)
std::vector<std::string_view> without_those_of_fuse(std::vector<std::string_view> words) {
  if (words.empty() || (words.front() != "rw" && words.front() != "ro")) return words;
  for (const std::string_view word : {"suid", "dev"}) {
    if (words.back() == word) words.pop_back();
  }
  return words;
}

}  // namespace

std::string_view to_string(CacheMode mode) {
  switch (mode) {
    case CacheMode::through:
      return "through";
    case CacheMode::writeback:
      return "writeback";
    case CacheMode::none:
      return "none";
  }
  return "";
}

std::string_view to_string(AtimeMode mode) {
  switch (mode) {
    case AtimeMode::relatime:
      return "relatime";
    case AtimeMode::strictatime:
      return "strictatime";
    case AtimeMode::noatime:
      return "noatime";
  }
  return "";
}

Outcome<MountOptions> parse_mount_options(std::string_view text) {
  MountOptions out;
  const auto words = without_those_of_fuse(split(text));
  const bool remount = std::ranges::find(words, "remount") != words.end();
  for (const std::string_view option : words) {
    if (remount && contains(kShown, option.substr(0, option.find('=')))) {
      out.shows_mount = true;
      continue;
    }
    if (auto parsed = parse_one(option, out); !parsed) return std::unexpected(parsed.error());
  }
  if (out.direct && out.cache == CacheMode::writeback) {
    return problem(EINVAL,
                   "mount options direct and cache=writeback exclude each other: the kernel would "
                   "keep what programs that copy by themselves are to see; leave one out");
  }
  if (auto allowed = check_policy_settings(out.gate, out.unsafe_demo); !allowed) {
    return problem(allowed.error().code, "mount option " + allowed.error().text);
  }
  return out;
}

std::vector<OptionHelp> mount_option_help() {
  const auto settings = policy_setting_help();
  std::vector<OptionHelp> help(settings.begin(), settings.end());
  help.insert(help.end(), kHelp.begin(), kHelp.end());
  return help;
}

}  // namespace daxfs
