#include "tools/hold_report.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

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

}  // namespace

void Report::held(std::uint64_t pin, FileOffset offset, ByteCount length, std::size_t extents,
                  HolderTag holder) {
  if (json_) {
    say_json(stdout, Json{{"event", "held"},
                          {"path", path_},
                          {"pin", pin},
                          {"offset", offset.value},
                          {"length", length.value},
                          {"extents", extents},
                          {"holder", fmt::format("{:016x}", holder.value)}});
  } else {
    say(stdout, fmt::format("held pin={} offset={} length={} extents={}", pin, offset.value,
                            length.value, extents));
  }
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

void Report::daemon_gone() {
  constexpr std::string_view kGone = "daemon gone, still holding the mapping";
  json_ ? say_json(stdout, Json{{"event", "daemon_gone"}, {"message", kGone}}) : say(stdout, kGone);
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
