#include "src/degraded.h"

#include <fmt/format.h>

#include <algorithm>

namespace daxfs {
namespace {

// From where on it is said that space is short. As in tools/watch/alerts.yml.
constexpr double kLimboNearlyFull = 0.8;
constexpr double kNearlyFull = 0.95;
constexpr std::chrono::seconds kLongWait{300};

double share(ByteCount part, ByteCount of) {
  return of.value == 0 ? 0 : static_cast<double>(part.value) / static_cast<double>(of.value);
}

void add_faults(const MountState& now, std::vector<Degraded>& out) {
  if (!now.stopped.empty()) {
    out.push_back(
        {"stopped", fmt::format("stopped: {}; nothing is changed any more", now.stopped),
         fmt::format("save what is needed, umount {}, fsck.daxfs {}", now.mountpoint, now.pool)});
  }
  if (now.unreadable != 0) {
    out.push_back(
        {"unreadable", fmt::format("{} reads met storage that is lost or damaged", now.unreadable),
         fmt::format("daxfsctl scrub {} names the files; write them anew", now.mountpoint)});
  }
  if (now.policy.pin_policy == PinPolicy::ignore) {
    out.push_back({"ignored_pins",
                   "pin_policy=ignore frees pinned blocks: holders see and cause corruption",
                   fmt::format("daxfsctl policy {} set refuse", now.mountpoint)});
  }
}

void add_shortages(const MountState& now, std::vector<Degraded>& out) {
  const ByteCount limit = now.policy.limbo_limit;
  if (now.limbo.value != 0 && share(now.limbo, limit) > kLimboNearlyFull) {
    out.push_back(
        {"limbo_nearly_full",
         fmt::format("{:.0f} % of limbo_limit is used: behind it defer refuses",
                     100 * share(now.limbo, limit)),
         fmt::format("end holders (daxfsctl pins {}), or raise limbo_limit", now.mountpoint)});
  }
  const ByteCount used(now.total.value - std::min(now.free, now.total).value);
  if (share(used, now.total) > kNearlyFull) {
    out.push_back({"nearly_full",
                   fmt::format("{:.1f} % of the pool is used, {:.1f} % of it by limbo",
                               100 * share(used, now.total), 100 * share(now.limbo, now.total)),
                   now.limbo.value == 0 ? "delete files"
                                        : fmt::format("delete files, or end the holders that keep "
                                                      "limbo (daxfsctl pins {})",
                                                      now.mountpoint)});
  }
  if (now.longest_wait >= kLongWait) {
    out.push_back({"requests_wait",
                   fmt::format("a request has waited for {} s", now.longest_wait.count()),
                   fmt::format("daxfsctl waiting {} shows for whom", now.mountpoint)});
  }
}

void add_surroundings(const MountState& now, std::vector<Degraded>& out) {
  if (now.needs_msync) {
    out.push_back(
        {"needs_msync",
         "the pool lies on a filesystem that is neither DAX nor memory: each write is an "
         "msync",
         fmt::format("copy {} to a filesystem mounted with -o dax, to device DAX, or (for "
                     "tests) to /dev/shm",
                     now.pool)});
  }
  if (now.request_limit) {
    out.push_back({"request_limit",
                   fmt::format("the kernel ends a mount when a request takes {} s, so none waits "
                               "for more than half of that",
                               now.request_limit->count()),
                   "set fs.fuse.default_request_timeout and fs.fuse.max_request_timeout to 0, and "
                   "mount again"});
  }
}

}  // namespace

std::vector<Degraded> what_is_degraded(const MountState& now) {
  std::vector<Degraded> out;
  add_faults(now, out);
  add_shortages(now, out);
  add_surroundings(now, out);
  return out;
}

}  // namespace daxfs
