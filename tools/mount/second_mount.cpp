#include "tools/mount/second_mount.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "src/policy_settings.h"
#include "tools/mount/live_mount.h"

namespace daxfs {
namespace {

// What is asked for and is otherwise there; "" if nothing is.
Outcome<std::string> conflict(const LiveMount& live, unsigned long flags,
                              const MountOptions& options) {
  const auto status = live.status();
  if (!status) return std::unexpected(status.error());
  if (const bool read_only = status->value("read_only", false); read_only != options.read_only)
    return std::string(read_only ? "read-only" : "read-write");
  if (auto other = difference(*status, options)) return std::move(other->now);
  const bool sync = std::ranges::find(options.kernel, "sync") != options.kernel.end();
  if (sync && (flags & MS_SYNCHRONOUS) == 0) return std::string("async");
  const auto text = live.policy();
  if (!text) return std::unexpected(text.error());
  const ByteCount size(status->value("total", std::uint64_t{0}));
  const auto now = change_policy(GateOptions(), *text, true, size);
  if (!now) return std::unexpected(now.error());
  for (const std::string& word : options.policy_words) {
    const auto wanted = change_policy(*now, word, true, size);
    if (!wanted) return std::unexpected(wanted.error());
    if (format_policy(*wanted) != format_policy(*now)) return "otherwise than with " + word;
  }
  return std::string();
}

}  // namespace

Outcome<void> mount_again(const std::string& pool, const std::string& first,
                          const std::string& mountpoint, const MountOptions& options) {
  const auto busy = [&](const std::string& how) {
    return problem(EBUSY, fmt::format("{}: already mounted on {}{}", pool, first, how));
  };
  if (geteuid() != 0) return busy("; umount that first (only root mounts a pool twice)");
  const auto live = LiveMount::of(pool, first);
  if (!live) {
    return busy(live.error().code == ENOTCONN ? ", whose daemon has died; umount that first"
                                              : "; umount that first");
  }
  if (!live->is_whole()) return busy(" with a part of it; umount that first");
  const auto flags = live->flags();
  if (!flags) return busy("; umount that first");
  const auto otherwise = conflict(*live, *flags, options);
  if (!otherwise) return std::unexpected(otherwise.error());
  if (!otherwise->empty())
    return busy(
        fmt::format(", {}; umount that first, or mount it here as it is there", *otherwise));
  if (::mount(first.c_str(), mountpoint.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return problem(errno, fmt::format("mount point {}: {}", mountpoint, std::strerror(errno)));
  const unsigned long wanted = with_words(*flags, options);
  if (wanted == *flags ||
      ::mount("none", mountpoint.c_str(), nullptr, MS_REMOUNT | MS_BIND | wanted, nullptr) == 0)
    return {};
  const int code = errno;
  umount2(mountpoint.c_str(), MNT_DETACH);
  return problem(code, fmt::format("mount point {}: {}", mountpoint, std::strerror(code)));
}

}  // namespace daxfs
