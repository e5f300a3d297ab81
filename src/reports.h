// What can be seen of the filesystem: reports, events, metrics, statistics. Looks at all of it and
// changes nothing.
#pragma once

#include <sys/statvfs.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/copies.h"
#include "src/direct_access.h"
#include "src/event_log.h"
#include "src/extents.h"
#include "src/files.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/open_file.h"

namespace daxfs {

struct MountState;

// An event as people and scripts read it: a JSON object, and the end of its line. `path`: of its
// inode.
std::string event_line(const EventLog::Event& event, const std::string& path, std::uint64_t lost);

// Thread-safe; has no state and no lock of its own. What it says was true of each thing at some
// moment while it was asked, not of all at one moment.
class Reports {
 public:
  Reports(const Mount& mount, const Health& health, Gate& gate, EventLog& events, Callers& callers,
          Inodes& inodes, Files& files, Extents& extents, const DirectAccess& direct,
          const Copies& copies)
      : mount_(mount),
        health_(health),
        gate_(gate),
        events_(events),
        callers_(callers),
        inodes_(inodes),
        files_(files),
        extents_(extents),
        direct_(direct),
        copies_(copies) {}

  // JSON objects, one a line: appends up to `room` bytes of whole lines to `out` and moves `cursor`
  // on (0: begin; UINT64_MAX: the end). `what`: DAXFS_QUERY_*. `file` is what the descriptor is
  // open on, or null (a directory). EINVAL, EISDIR, EMSGSIZE.
  Status report(std::uint32_t what, std::uint64_t& cursor, std::size_t room, std::string& out,
                OpenFile* file, const Caller& caller);
  // Everything that can be counted, in Prometheus' text format (metrics.cpp).
  std::string metrics() const;
  // The pool as cells (pool_map.h). Who pins what is said of the caller's own pins, or of all if it
  // is trusted.
  std::string pool_map(const Caller& caller) const;
  struct statvfs statistics() const;
  // The survivors of a former mount come first, as `quarantine`. `has_news`: see EventLog.
  Result<EventLog::ReaderRef> listen(std::function<void()> has_news);

 private:
  class Pages;
  nlohmann::json status() const;
  MountState state() const;
  Status list_pins(Pages& pages, const Caller& caller);
  Status list_leases(Pages& pages, const Caller& caller);
  Status list_waiting(Pages& pages, const Caller& caller);
  Status list_attached(Pages& pages, const Caller& caller);
  Status list_limbo(Pages& pages);
  Status list_extents(Pages& pages, OpenFile& file);
  bool is_shown(const Requester& requester, const Caller& caller) const;

  const Mount& mount_;
  const Health& health_;
  Gate& gate_;
  EventLog& events_;
  Callers& callers_;
  Inodes& inodes_;
  Files& files_;
  Extents& extents_;
  const DirectAccess& direct_;
  const Copies& copies_;
};

}  // namespace daxfs
