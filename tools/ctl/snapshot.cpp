#include "tools/ctl/snapshot.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

#include "client/daxfs.h"
#include "tools/ctl/print.h"

namespace daxfs::ctl {
namespace {

// Gathers holders from pins and leases.
class Holders {
 public:
  void add_pin(const Json& pin) {
    Entry& entry = of(pin);
    Holding& holding = entry.holding;
    ++(pin.value("kind", "") == "short" ? holding.short_pins : holding.long_pins);
    holding.bytes += pin.value("length", std::uint64_t{0});
    if (const auto grace = pin.find("grace"); grace != pin.end() && grace->is_number()) {
      ++holding.in_grace;
    }
    const double since = pin.value("since", 0.0);
    if (holding.since == 0 || since < holding.since) holding.since = since;
    entry.inodes.insert(pin.value("inode", std::uint64_t{0}));
    if (holding.path.empty()) holding.path = text_of(pin, "path");
  }
  void add_lease(const Json& lease) {
    Entry& entry = of(lease);
    ++entry.holding.leases;
    if (lease.value("breaking", false)) ++entry.holding.breaking;
    entry.inodes.insert(lease.value("inode", std::uint64_t{0}));
    if (entry.holding.path.empty()) entry.holding.path = text_of(lease, "path");
  }
  void add_waiting(const WaitingRequest& request) {
    for (const InTheWay& one : request.waits_for) {
      const auto found = by_process_.find(one.process);
      if (found != by_process_.end()) ++found->second.holding.holds_up;
    }
  }
  std::vector<Holding> take() && {
    std::vector<Holding> all;
    for (auto& [process, entry] : by_process_) {
      entry.holding.files = entry.inodes.size();
      all.push_back(std::move(entry.holding));
    }
    return all;
  }

 private:
  struct Entry {
    Holding holding;
    std::set<std::uint64_t> inodes;
  };
  Entry& of(const Json& object) {
    const auto process = object.value("pid", std::int64_t{0});
    Entry& entry = by_process_[process];
    if (entry.holding.command.empty()) {
      entry.holding.process = process;
      entry.holding.command = text_of(object, "command");
    }
    return entry;
  }
  std::map<std::int64_t, Entry> by_process_;
};

// Lines such as daxfs_gate_events_total{event="pin"} 12.
std::map<std::string, std::uint64_t> events_in(std::string_view metrics) {
  constexpr std::string_view kBegin = "daxfs_gate_events_total{event=\"";
  std::map<std::string, std::uint64_t> events;
  for (std::size_t at = 0; (at = metrics.find(kBegin, at)) != metrics.npos;) {
    at += kBegin.size();
    const std::size_t quote = metrics.find('"', at);
    const std::size_t end = std::min(metrics.find('\n', at), metrics.size());
    if (quote == metrics.npos || quote + 3 > end) break;
    std::uint64_t count = 0;
    std::from_chars(metrics.data() + quote + 3, metrics.data() + end, count);
    events[std::string(metrics.substr(at, quote - at))] = count;
  }
  return events;
}

}  // namespace

Outcome<Snapshot> take_snapshot(const Mount& mount) {
  Snapshot now;
  now.taken = std::chrono::steady_clock::now();
  auto status = mount.query_one(DAXFS_QUERY_STATUS);
  if (!status) return std::unexpected(status.error());
  now.status = std::move(*status);
  Holders holders;
  // One walk over pins and leases serves the holders and the requests that wait for them.
  const auto each = [&](std::uint32_t what, const auto& visit) {
    return mount.query(what, [&](const Json& object) {
      visit(object);
      return true;
    });
  };
  auto asked = each(DAXFS_QUERY_WAITING, [&](const Json& one) { now.waiting.add_request(one); });
  if (asked) {
    asked = each(DAXFS_QUERY_PINS, [&](const Json& pin) {
      holders.add_pin(pin);
      now.waiting.add_pin(pin);
    });
  }
  if (asked) {
    asked = each(DAXFS_QUERY_LEASES, [&](const Json& lease) {
      holders.add_lease(lease);
      if (now.leases.size() < Snapshot::kMostLeases) now.leases.push_back(lease);
      now.waiting.add_lease(lease);
    });
  }
  if (asked) {
    asked = each(DAXFS_QUERY_LIMBO, [&](const Json& piece) {
      ++now.limbo_pieces;
      const double since = piece.value("since", 0.0);
      if (now.limbo_since == 0 || since < now.limbo_since) now.limbo_since = since;
    });
  }
  if (!asked) return std::unexpected(asked.error());
  for (const WaitingRequest& request : now.waiting.requests()) holders.add_waiting(request);
  now.holders = std::move(holders).take();

  const auto text = mount.read_control("metrics");
  if (!text) return std::unexpected(text.error());
  now.events = events_in(*text);
  return now;
}

}  // namespace daxfs::ctl
