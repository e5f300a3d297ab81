#include "tools/ctl/live_report.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "tools/ctl/snapshot.h"

namespace daxfs::ctl {
namespace {

Json seconds_or_null(double since) { return since == 0 ? Json(nullptr) : Json(since); }

Json holders_of(const Snapshot& now) {
  Json all = Json::array();
  for (const Holding& one : now.holders) {
    all.push_back({{"pid", one.process},
                   {"command", one.command},
                   {"long", one.long_pins},
                   {"short", one.short_pins},
                   {"bytes", one.bytes},
                   {"leases", one.leases},
                   {"breaking", one.breaking},
                   {"holds_up", one.holds_up},
                   {"grace", one.in_grace},
                   {"since", seconds_or_null(one.since)},
                   {"path", one.path},
                   {"files", one.files}});
  }
  return all;
}

// The daemon's cells, as many of them made one as it takes.
Json map_of(const Json& map, std::size_t most) {
  const auto blocks = map.value("blocks", std::uint64_t{0});
  auto size = std::max<std::uint64_t>(map.value("cell_blocks", std::uint64_t{1}), 1);
  std::uint64_t together = 1;
  while ((blocks + size * together - 1) / (size * together) > most) together *= 2;
  const std::uint64_t count = (blocks + size * together - 1) / (size * together);
  struct Cell {
    std::uint64_t used = 0, pinned = 0, limbo = 0, grace = 0, most = 0;
    std::int64_t process = 0;
  };
  std::vector<Cell> cells(count);
  for (const Json& from : map.value("cells", Json::array())) {
    if (!from.is_array() || from.size() != 6 || !from[0].is_number_unsigned()) continue;
    const std::uint64_t at = from[0].get<std::uint64_t>() / together;
    if (at >= count) continue;
    Cell& cell = cells[at];
    cell.used += from[1].get<std::uint64_t>();
    cell.pinned += from[2].get<std::uint64_t>();
    cell.limbo += from[3].get<std::uint64_t>();
    cell.grace += from[4].get<std::uint64_t>();
    if (from[2].get<std::uint64_t>() > cell.most) {
      cell.most = from[2].get<std::uint64_t>();
      cell.process = from[5].get<std::int64_t>();
    }
  }
  Json all = Json::array();
  for (const Cell& cell : cells) {
    all.push_back({cell.used, cell.pinned, cell.limbo, cell.grace, cell.process});
  }
  return {{"cell_blocks", size * together}, {"blocks", blocks}, {"cells", std::move(all)}};
}

}  // namespace

Outcome<std::string> live_report(const Mount& mount, std::size_t cells) {
  const auto now = take_snapshot(mount);
  if (!now) return std::unexpected(now.error());
  const auto map = mount.read_control("map");
  if (!map) return std::unexpected(map.error());
  Json waiting = Json::array();
  for (const WaitingRequest& request : now->waiting.requests()) waiting.push_back(as_json(request));

  const std::chrono::duration<double> time = std::chrono::system_clock::now().time_since_epoch();
  const Json report = {
      {"time", time.count()},
      {"may_switch", mount.may_switch()},
      {"status", now->status},
      {"holders", holders_of(*now)},
      {"waiting", std::move(waiting)},
      {"leases", now->leases},
      {"limbo", {{"pieces", now->limbo_pieces}, {"since", seconds_or_null(now->limbo_since)}}},
      {"events", now->events},
      {"map", map_of(Json::parse(*map, nullptr, false), cells)}};
  // File names need not be UTF-8.
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace daxfs::ctl
