#include "tools/hold/lease.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "client/daxfs.h"
#include "tools/hold/explain.h"
#include "tools/hold/pin.h"

namespace daxfs::hold {

Leases::~Leases() {
  for (const auto& [lease, range] : leases_) daxfs_unlease(file_, lease);
}

Outcome<std::uint64_t> Leases::take(FileRange range) {
  const std::uint32_t flags = options_.exclusive ? DAXFS_LEASE_EXCLUSIVE : 0;
  const Interruptible while_queued;
  std::uint64_t lease = 0;
  if (daxfs_lease(file_, offset_of(range.start).value, bytes(range.count).value, flags, &lease) <
      0) {
    return std::unexpected(explain_lease(errno, range, options_));
  }
  leases_.insert({lease, range});
  return lease;
}

FileRange Leases::split_at(FileRange range) {
  const std::uint32_t flags =
      DAXFS_LEASE_NOWAIT | (options_.exclusive ? DAXFS_LEASE_EXCLUSIVE : 0u);
  for (const auto& [lease, whole] : leases_) {
    if (whole.start >= range.start || range.end() >= whole.end()) continue;
    const FileRange tail = {range.end(), whole.end() - range.end()};
    std::uint64_t second = 0;
    if (daxfs_lease(file_, offset_of(tail.start).value, bytes(tail.count).value, flags, &second) ==
        0) {
      leases_.insert({second, tail});
    } else {
      range.count = whole.end() - range.start;
    }
    break;  // leases do not overlap: it was the only one
  }
  return range;
}

Outcome<void> Leases::give_up(FileRange range) {
  // Copied, since leases go meanwhile.
  const std::vector<std::pair<std::uint64_t, FileRange>> before(leases_.begin(), leases_.end());
  for (const auto& [lease, whole] : before) {
    if (whole.start >= range.end() || range.start >= whole.end()) continue;
    Outcome<void> done;
    if (whole.start < range.start) {
      done = shrink(lease, {whole.start, range.start - whole.start});
    } else if (range.end() < whole.end()) {
      done = shrink(lease, {range.end(), whole.end() - range.end()});
    } else {
      done = unlease(lease);
    }
    if (!done) return done;
  }
  return {};
}

Outcome<void> Leases::release() {
  while (!leases_.empty()) {
    if (auto gone = unlease(leases_.begin()->first); !gone) return gone;
  }
  return {};
}

bool Leases::is_asked_for(std::uint64_t lease) const {
  daxfs_query_args query = {};
  query.what = DAXFS_QUERY_LEASES;
  query.cursor = lease - 1;
  if (ioctl(file_, DAXFS_IOC_QUERY, &query) != 0) return true;
  const std::string_view lines(query.text, std::min<std::size_t>(query.length, sizeof query.text));
  const auto first = nlohmann::json::parse(lines.substr(0, lines.find('\n')), nullptr, false);
  return !first.is_object() || first.value("id", std::uint64_t{0}) != lease ||
         first.value("breaking", true);
}

// ENOENT, for both: it was revoked meanwhile; an event will say so.
Outcome<void> Leases::shrink(std::uint64_t lease, FileRange range) {
  leases_[lease] = range;
  std::uint64_t same = lease;
  if (daxfs_lease(file_, offset_of(range.start).value, bytes(range.count).value, DAXFS_LEASE_SHRINK,
                  &same) == 0) {
    return {};
  }
  return tolerate(errno);
}

Outcome<void> Leases::unlease(std::uint64_t lease) {
  leases_.erase(lease);
  return daxfs_unlease(file_, lease) == 0 ? Outcome<void>() : tolerate(errno);
}

Outcome<void> Leases::tolerate(int code) const {
  if (code == ENOENT || daemon_gone(file_)) return {};
  return std::unexpected(explain_release(code));
}

}  // namespace daxfs::hold
