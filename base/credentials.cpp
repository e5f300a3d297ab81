#include "base/credentials.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include "base/process_stat.h"

namespace daxfs {
namespace {

// What stands behind a key at the beginning of a line, up to the end of the line.
std::string_view line_of(std::string_view text, std::string_view key) {
  const auto at = text.find(key);
  if (at == text.npos) return {};
  text.remove_prefix(at + key.size());
  return text.substr(0, text.find('\n'));
}

bool is_in_own_user_namespace(pid_t thread) {
  const std::uint32_t own = namespace_inode("/proc/self/ns/user");
  return own != 0 && own == namespace_inode("/proc/" + std::to_string(thread) + "/ns/user");
}

}  // namespace

bool Credentials::is_in(gid_t group) const {
  return std::ranges::find(groups, group) != groups.end();
}

Credentials credentials_of(pid_t thread) {
  Credentials out;
  if (thread <= 0) return out;
  // Up to 65,536 groups stand in it, in front of the capabilities.
  std::ifstream file("/proc/" + std::to_string(thread) + "/status");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::string_view groups = line_of(text, "\nGroups:\t");
  while (!groups.empty()) {
    gid_t group = 0;
    const auto read = std::from_chars(groups.data(), groups.data() + groups.size(), group);
    if (read.ec != std::errc()) break;
    out.groups.push_back(group);
    groups.remove_prefix(static_cast<std::size_t>(read.ptr - groups.data()));
    if (groups.starts_with(' ')) groups.remove_prefix(1);
  }
  const std::string_view effective = line_of(text, "\nCapEff:\t");
  std::from_chars(effective.data(), effective.data() + effective.size(), out.capabilities, 16);
  if (out.capabilities != 0 && !is_in_own_user_namespace(thread)) out.capabilities = 0;
  return out;
}

}  // namespace daxfs
