#include "tools/hold/report.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "base/process_stat.h"

namespace daxfs::hold {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kForeignLines = 20;

// A reader that went away must not end the holding: errors of the stream are not ours.
void say(std::FILE* stream, std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stream);
  std::fputc('\n', stream);
  std::fflush(stream);
}

void say_json(std::FILE* stream, const Json& object) {
  // A file's name may be any bytes; JSON is UTF-8.
  say(stream, object.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string_view name_of_type(std::uint32_t type) {
  switch (type) {
    case DAXFS_EVENT_BREAK:
      return "break";
    case DAXFS_EVENT_CHANGED:
      return "changed";
    case DAXFS_EVENT_REVOKED:
      return "revoked";
    default:
      return "unknown";
  }
}

std::string_view name_of_reason(std::uint32_t reason) {
  switch (reason) {
    case DAXFS_REASON_TRUNCATE:
      return "truncate";
    case DAXFS_REASON_PUNCH:
      return "punch";
    case DAXFS_REASON_RENAME:
      return "rename";
    default:
      return "unknown";
  }
}

std::string_view name_of(Report::Answer answer) {
  switch (answer) {
    case Report::Answer::gives_way:
      return "gives way";
    case Report::Answer::ignores:
      return "ignored";
    case Report::Answer::too_late:
      break;
  }
  return "the request has ended, goes on holding";
}

double seconds_until(std::uint64_t deadline_ns) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const std::chrono::nanoseconds deadline(static_cast<std::int64_t>(deadline_ns));
  return std::chrono::duration<double>(deadline - now).count();
}

}  // namespace

void Report::held(const Held& held, HolderTag holder) {
  const bool several = held.pins > 1;
  const bool leased = held.lease != 0;
  if (json_) {
    Json object{{"event", "held"},
                {"path", path_},
                {"pin", held.pin},
                {"offset", held.range.begin.value},
                {"length", held.range.length.value},
                {"extents", held.extents},
                {"holder", fmt::format("{:016x}", holder.value)},
                {"pins", held.pins},
                {"seconds", held.took.count()}};
    if (leased) object["lease"] = held.lease;
    say_json(stdout, object);
    return;
  }
  std::string line = fmt::format("held pin={} offset={} length={} extents={}", held.pin,
                                 held.range.begin.value, held.range.length.value, held.extents);
  if (several) line += fmt::format(" pins={} seconds={:.3f}", held.pins, held.took.count());
  if (leased) line += fmt::format(" lease={}", held.lease);
  say(stdout, line);
}

void Report::told(const daxfs_event& event, Answer answer) {
  const std::string seen = command_of(event.pid);
  const std::string command = seen.empty() ? "?" : seen;  // ended, or not to be seen from here
  const double left = seconds_until(event.deadline_ns);
  const bool asked = event.type == DAXFS_EVENT_BREAK;
  const std::string_view action = asked ? name_of(answer) : "";
  if (json_) {
    Json object{{"event", name_of_type(event.type)},
                {"lease", event.lease_id},
                {"offset", event.offset},
                {"length", event.length},
                {"reason", name_of_reason(event.reason)},
                {"pid", event.pid},
                {"command", command}};
    if (asked) object["seconds_left"] = left;
    if (asked) object["action"] = action;
    say_json(stdout, object);
    return;
  }
  std::string line = fmt::format("{} lease={} offset={} length={} reason={} pid={} command={}",
                                 name_of_type(event.type), event.lease_id, event.offset,
                                 event.length, name_of_reason(event.reason), event.pid, command);
  if (asked) line += fmt::format(" seconds_left={:.3f}: {}", left, action);
  say(stdout, line);
}

void Report::gave_up(FileRange blocks, std::uint64_t pins, std::uint64_t pins_left) {
  const std::uint64_t offset = offset_of(blocks.start).value;
  const std::uint64_t length = bytes(blocks.count).value;
  if (json_) {
    say_json(stdout, Json{{"event", "gave_up"},
                          {"offset", offset},
                          {"length", length},
                          {"pins", pins},
                          {"pins_left", pins_left}});
  } else {
    say(stdout, fmt::format("gave up offset={} length={} pins={} pins_left={}", offset, length,
                            pins, pins_left));
  }
}

void Report::nothing_left() {
  constexpr std::string_view kNothing = "nothing left to hold";
  json_ ? say_json(stdout, Json{{"event", "nothing_left"}}) : say(stdout, kNothing);
}

void Report::foreign(const Foreign& foreign, PoolOffset pool, std::string_view seen_in) {
  if (foreign_lines_ > kForeignLines) return;
  if (++foreign_lines_ > kForeignLines) {
    constexpr std::string_view kEnough = "further foreign bytes are only counted";
    json_ ? say_json(stderr, Json{{"event", "note"}, {"message", kEnough}}) : say(stderr, kEnough);
    return;
  }
  const std::string expected = hex(std::span(foreign.expected).first(foreign.size));
  const std::string found = hex(std::span(foreign.found).first(foreign.size));
  if (json_) {
    say_json(stderr, Json{{"event", "foreign"},
                          {"path", path_},
                          {"file_offset", foreign.offset.value},
                          {"pool_offset", pool.value},
                          {"expected", expected},
                          {"found", found},
                          {"seen_in", seen_in},
                          {"attribution", foreign.attribution}});
  } else {
    say(stderr,
        fmt::format(
            "foreign bytes in the {}: {} offset {} (pool offset {}): expected {}, found {}: {}",
            seen_in, path_, foreign.offset.value, pool.value, expected, found,
            foreign.attribution));
  }
}

void Report::daemon_gone(bool short_term) {
  const std::string line =
      fmt::format("daemon gone, still holding the mapping{}",
                  short_term ? "; a short-term pin does not outlive the daemon: its blocks may be "
                               "somebody else's after the next mount"
                             : "");
  json_ ? say_json(stdout, Json{{"event", "daemon_gone"}, {"message", line}}) : say(stdout, line);
}

void Report::adopted(std::uint64_t adopted, std::uint64_t pins, std::uint64_t leases) {
  if (json_) {
    say_json(stdout,
             Json{{"event", "adopted"}, {"pins", adopted}, {"of", pins}, {"leases", leases}});
  } else {
    say(stdout,
        fmt::format("daemon is back: adopted pins={} of={} leases={}", adopted, pins, leases));
  }
}

void Report::note(const Problem& problem) {
  if (json_) {
    say_json(stderr, Json{{"event", "note"}, {"message", problem.text}, {"errno", problem.code}});
  } else {
    say(stderr, "daxfs-hold: " + problem.text);
  }
}

void Report::detached(FileOffset offset) {
  if (detached_said_) return;
  detached_said_ = true;
  if (json_) {
    say_json(stdout, Json{{"event", "detached"}, {"path", path_}, {"offset", offset.value}});
  } else {
    say(stdout, fmt::format("detached offset={}: from now on only the mapping is checked there",
                            offset.value));
  }
}

void Report::released(const Totals& totals) {
  if (json_) {
    say_json(stdout, Json{{"event", "released"},
                          {"rounds", totals.rounds},
                          {"checks", totals.checks},
                          {"foreign", totals.foreign}});
  } else {
    say(stdout, fmt::format("released rounds={} checks={} foreign={}", totals.rounds, totals.checks,
                            totals.foreign));
  }
}

void Report::failed(const Problem& problem) {
  if (json_) {
    say_json(stderr, Json{{"event", "failed"}, {"message", problem.text}, {"errno", problem.code}});
  } else {
    say(stderr, "daxfs-hold: " + problem.text);
  }
}

}  // namespace daxfs::hold
