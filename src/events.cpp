// Events as people and scripts read them: one JSON object a line.
#include <chrono>
#include <nlohmann/json.hpp>

#include "src/reports.h"

namespace daxfs {

Result<EventLog::ReaderRef> Reports::listen(std::function<void()> has_news) {
  const auto survivors = [this] {
    std::vector<EventLog::Event> out;
    const auto now = std::chrono::system_clock::now();
    const PinPolicy policy = gate_.options().pin_policy;
    for (const Survivors::Survivor& one : files_.survivors()) {
      // The first of its pins stands for all.
      const auto pin = gate_.find_pin(one.holder, one.first);
      if (!pin) continue;
      out.push_back({.what = {.kind = GateEvent::Kind::quarantine,
                              .inode = pin->inode,
                              .offset = pin->offset.value,
                              .length = pin->length.value,
                              .policy = policy,
                              .process = one.process},
                     .time = now,
                     .pins = one.pins});
    }
    return out;
  };
  return events_.listen(survivors, std::move(has_news));
}

std::string event_line(const EventLog::Event& event, const std::string& path, std::uint64_t lost) {
  using Microseconds = std::chrono::duration<std::int64_t, std::micro>;
  const auto time = std::chrono::duration_cast<Microseconds>(event.time.time_since_epoch());
  const GateEvent& what = event.what;
  nlohmann::ordered_json line = {{"time", static_cast<double>(time.count()) / 1e6},
                                 {"event", to_string(what.kind)},
                                 {"inode", what.inode.value},
                                 {"offset", what.offset},
                                 {"length", what.length},
                                 {"policy", to_string(what.policy)},
                                 {"pid", what.process}};
  if (what.inode.value != 0) line["path"] = path;
  if (event.pins != 0) line["pins"] = event.pins;
  if (lost != 0) line["lost"] = lost;
  // File names need not be UTF-8; a report has to be.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace daxfs
