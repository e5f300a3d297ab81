#include "tools/mount/remount.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tools/mount/live_mount.h"

namespace daxfs {
namespace {

Problem explain(int code, const std::string& path) {
  switch (code) {
    case EBUSY:
      return {fmt::format("{0}: files are open for writing, or open and unlinked; close them first "
                          "(fuser -vm {0})",
                          path),
              code};
    case EPERM:
      return {path + ": only root may remount; umount it, and mount it again", code};
    default:
      return {fmt::format("{}: remount: {}", path, std::strerror(code)), code};
  }
}

// What stays as it was mounted.
Outcome<void> check_fixed(const MountOptions& options, const std::string& mountpoint,
                          unsigned long flags, const ctl::Json& status) {
  const auto fixed = [&](std::string_view now, std::string_view wanted) {
    return problem(EINVAL, fmt::format("{}: {} cannot be changed to {} while it is mounted; umount "
                                       "it, and mount it again",
                                       mountpoint, now, wanted));
  };
  // The kernel shows relatime, whatever the daemon does.
  MountOptions said = options;
  if (said.atime == AtimeMode::relatime) said.says_atime = false;
  if (const auto other = difference(status, said)) return fixed(other->now, other->wanted);
  const auto lacks = [&](std::string_view word) {
    return options.shows_mount && std::ranges::find(options.kernel, word) == options.kernel.end();
  };
  if ((flags & MS_NOSUID) != 0 && lacks("nosuid")) return fixed("nosuid", "suid");
  if ((flags & MS_NODEV) != 0 && lacks("nodev")) return fixed("nodev", "dev");
  return {};
}

Outcome<void> tell_kernel(const LiveMount& live, unsigned long flags) {
  if (::mount("none", live.path().c_str(), nullptr, MS_REMOUNT | flags, nullptr) == 0) return {};
  return std::unexpected(explain(errno, live.path()));
}

// The kernel first to read-only: then nobody writes when the daemon is told. The daemon first back
// to read-write, which it may refuse.
Outcome<void> set_access(const LiveMount& live, unsigned long before, unsigned long after) {
  if ((after & MS_RDONLY) == 0) {
    if (auto told = live.set_read_only(false); !told) return told;
    auto done = tell_kernel(live, after);
    if (!done && (before & MS_RDONLY) != 0) (void)live.set_read_only(true);
    return done;
  }
  if (auto done = tell_kernel(live, after); !done) return done;
  auto told = live.set_read_only(true);
  if (!told) (void)tell_kernel(live, before);
  return told;
}

}  // namespace

Outcome<void> remount(const std::string& pool, const std::string& mountpoint,
                      const MountOptions& options) {
  const auto live = LiveMount::of(pool, mountpoint);
  if (!live) return std::unexpected(live.error());
  const auto before = live->flags();
  if (!before) return std::unexpected(explain(before.error().code, mountpoint));
  const auto status = live->status();
  if (!status) return std::unexpected(status.error());
  if (auto may = check_fixed(options, mountpoint, *before, *status); !may) return may;
  unsigned long after = with_words(*before, options);
  if (options.says_access) {
    after = (after & ~static_cast<unsigned long>(MS_RDONLY)) | (options.read_only ? MS_RDONLY : 0);
  }
  if (after != *before) {
    if (auto done = set_access(*live, *before, after); !done) return done;
  }
  if (options.policy_words.empty()) return {};
  auto switched = live->set_policy(fmt::format("{}", fmt::join(options.policy_words, " ")));
  if (!switched && after != *before) (void)set_access(*live, after, *before);
  return switched;
}

}  // namespace daxfs
