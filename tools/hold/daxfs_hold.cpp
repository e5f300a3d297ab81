// daxfs-hold: the pin-holder workload. It pins a range of a file, works on the medium itself
// through the mapping, and can tell whether somebody else's bytes ever appeared under its pin.

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "base/result.h"
#include "base/size_text.h"
#include "tools/hold/engine.h"
#include "tools/hold/explain.h"
#include "tools/hold/file.h"
#include "tools/hold/options.h"
#include "tools/hold/pattern.h"
#include "tools/hold/report.h"
#include "tools/hold/round.h"
#include "tools/hold/watch.h"
#include "tools/standard_streams.h"
#include "tools/usage.h"

namespace daxfs::hold {
namespace {

constexpr int kCouldNotHold = 1;
constexpr int kUsage = 2;
constexpr int kSawForeign = 3;

constexpr const char* kAbout =
    "Pins a range of FILE on a daxfs mount, maps the pinned blocks, and keeps writing and checking "
    "a pattern\n"
    "there, as a device with long-lived access to the memory would. Says `held ...` when it holds, "
    "and at the\n"
    "end `released ...`. Bytes that are not its own are reported on stderr, and it goes on "
    "holding.\n"
    "What the range held before is overwritten (not with --read-only).";
constexpr const char* kFooter =
    "SIZE: bytes, or with K, M, G, T (binary).\n"
    "Ends at SIGINT, SIGTERM, as --seconds and --rounds say, or when it has given way with all "
    "that "
    "it held.\n"
    "Exit status: 0 all well, 1 could not hold, 2 usage, 3 saw somebody else's bytes.\n"
    "If the daemon dies, it says so and goes on holding and checking its mapping. When the same "
    "path is there\n"
    "again, it takes its long-term pins over (daxfs_adopt) and the lease anew, and says so; it "
    "looks "
    "every\n"
    "200 ms at first, later every 2 s.";

Outcome<ByteRange> range_of(int file, const Options& options) {
  struct stat status;
  if (fstat(file, &status) < 0) return std::unexpected(explain_open(errno, options.path, false));
  if (!S_ISREG(status.st_mode)) return problem(EINVAL, options.path + ": not a regular file");
  if (options.length) {
    return ByteRange{options.offset, ByteCount(options.length->value * options.pins)};
  }
  const FileOffset end(static_cast<std::uint64_t>(status.st_size));
  if (options.offset >= end) {
    return problem(
        ENXIO, fmt::format("{}: has no bytes from offset {} on (its size is {}): give --length and "
                           "--allocate to make some",
                           options.path, options.offset.value, end.value));
  }
  return ByteRange{options.offset, end - options.offset};
}

Schedule schedule_of(const Options& options, Schedule::Clock::time_point begin,
                     std::uint64_t round) {
  Schedule schedule;
  schedule.one_sweep = !options.seconds && options.rounds > 1;
  if (!options.seconds) return schedule;
  const auto until = [&](double share) {
    return begin + std::chrono::duration_cast<Schedule::Clock::duration>(*options.seconds * share);
  };
  schedule.round_end = until(static_cast<double>(round + 1) / static_cast<double>(options.rounds));
  schedule.overall_end = until(1);
  return schedule;
}

Outcome<void> hold(const Options& options, File& file, Report& report, Totals& totals) {
  const auto range = range_of(file.get(), options);
  if (!range) return std::unexpected(range.error());
  const auto engine = Engine::make(options.engine, options.path);
  if (!engine) return std::unexpected(engine.error());
  const Pattern pattern = Pattern::random();
  Watch watch;
  watch.add(file.get());
  const auto begin = Schedule::Clock::now();
  for (bool last = false; totals.rounds < options.rounds && !last;) {
    if (totals.rounds > 0 && watch.wait(std::chrono::milliseconds(0)).stop) break;
    Round round(file, options, *range, pattern, engine->get(), watch, report, totals);
    if (auto taken = round.take(); !taken) return taken;
    const auto worked = round.work(schedule_of(options, begin, totals.rounds));
    last = round.was_last();
    auto released = round.release();
    if (!worked) return worked;
    ++totals.rounds;
    if (!released) return released;
  }
  return {};
}

int run(const Options& options) {
  // The reader of our lines may go; the holding goes on.
  std::signal(SIGPIPE, SIG_IGN);
  Report report(options.json, options.path);
  Totals totals;
  auto file = File::open(options);
  if (!file) {
    report.failed(file.error());
    return kCouldNotHold;
  }
  const auto held = hold(options, *file, report, totals);
  if (!held) {
    if (totals.rounds == 0) file->undo();
    report.failed(held.error());
  }
  if (held || totals.rounds > 0) report.released(totals);
  if (totals.foreign > 0) return kSawForeign;
  return held ? 0 : kCouldNotHold;
}

EngineKind engine_of(const std::string& name) {
  if (name == "io_uring") return EngineKind::io_uring;
  return name == "rdma" ? EngineKind::rdma : EngineKind::mmap;
}

// Sizes that may be zero (parse_size's may not).
Outcome<std::uint64_t> parse_offset(const std::string& text) {
  if (text == "0") return 0;
  const auto size = parse_size(text);
  if (!size) return std::unexpected(size.error());
  return size->value;
}

// Options as they are written, before they are looked at.
struct Words {
  std::string offset = "0";
  std::string length;
  std::string engine = "mmap";
  double seconds = -1;
  std::int64_t interval = Options().interval.count();
};

// Takes the words over.
Outcome<void> check(Options& options, const Words& words) {
  const auto begin = parse_offset(words.offset);
  if (!begin) return problem(EINVAL, "--offset: " + begin.error().text);
  options.offset = FileOffset(*begin);
  if (!words.length.empty()) {
    const auto size = parse_size(words.length);
    if (!size) return problem(EINVAL, "--length: " + size.error().text);
    options.length = *size;
  }
  constexpr std::uint64_t kEnd = INT64_MAX;
  if (*begin > kEnd || (options.length && options.length->value > (kEnd - *begin) / options.pins)) {
    return problem(EINVAL, "--offset, --length, --count: a file ends at 2^63 - 1 at the latest");
  }
  if (options.pins > 1 &&
      (!options.length || options.length->value % kBlockSize != 0 || *begin % kBlockSize != 0)) {
    return problem(EINVAL,
                   "--count: several pins need --length and --offset in whole blocks (4K), since a "
                   "block is pinned as a whole");
  }
  options.engine = engine_of(words.engine);
  if (options.read_only && options.engine != EngineKind::mmap) {
    return problem(EINVAL,
                   "--read-only: what is given to a device can be written: use --engine mmap");
  }
  options.lease = options.lease || options.exclusive;
  options.interval = std::chrono::milliseconds(words.interval);
  if (words.seconds >= 0) options.seconds = std::chrono::duration<double>(words.seconds);
  return {};
}

void add_what_is_pinned(CLI::App& app, Options& options, Words& words) {
  app.add_option("FILE", options.path, "a regular file on a daxfs mount")->required();
  app.add_option("--offset", words.offset, "where the range begins")
      ->type_name("SIZE")
      ->capture_default_str();
  app.add_option("--length", words.length, "length of the range (default: to the end of FILE)")
      ->type_name("SIZE");
  app.add_flag("--short", options.short_term,
               "take a short-term pin: detaches wait for it (default: long-term)");
  app.add_flag(
      "--allocate", options.allocate,
      "fill holes with blocks, extend FILE if it is shorter, create it if it is missing (then "
      "--length is needed)");
  app.add_flag("--read-only", options.read_only,
               "take a read pin: write nothing, and check that the mapped bytes stay what they "
               "were at first "
               "(a copy is kept in memory; writes to FILE by others count as changes)");
  app.add_flag(
      "--verify", options.verify,
      "also read FILE through a descriptor and check that it shows what is mapped, as long as the "
      "blocks are FILE's");
}

void add_how_often(CLI::App& app, Options& options, Words& words) {
  app.add_option("--seconds", words.seconds,
                 "release after N seconds, for all rounds together: each gets its share "
                 "(default: hold "
                 "until SIGINT or SIGTERM)")
      ->type_name("N")
      ->check(check_number(0, 1e9));
  app.add_option("--count", options.pins,
                 "number of pins side by side, each of --length bytes, the first at --offset; "
                 "while they are "
                 "taken, one more over all of them counts against user_limit= and pin_limit=")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 24).description(""))
      ->capture_default_str();
  app.add_option(
         "--rounds", options.rounds,
         "rounds of pin, hold, unpin; without --seconds and with more than one, each round lasts "
         "until every block has been written and checked once")
      ->type_name("N")
      ->check(CLI::Range(1, 1000000000).description(""))
      ->capture_default_str();
}

void add_leases(CLI::App& app, Options& options) {
  app.add_flag(
      "--lease", options.lease,
      "take a layout lease over the range first, and give way when it is broken: unpin "
      "what is asked for (whole pins), give that part of the lease up, go on with the rest");
  app.add_flag(
      "--exclusive", options.exclusive,
      "take an exclusive lease (implies --lease): no other program can take the blocks away");
  app.add_flag("--ignore-breaks", options.ignore_breaks, "only say that the lease is being broken");
}

void add_work(CLI::App& app, Options& options, Words& words) {
  app.add_option("--engine", words.engine,
                 "what works in the memory. mmap: loads and stores of the processor; io_uring: the "
                 "kernel, by reads into and writes out of registered buffers; rdma: the first RDMA "
                 "adapter, by writes and reads through a queue pair that is connected with itself")
      ->type_name("NAME")
      ->check(CLI::IsMember({"mmap", "io_uring", "rdma"}).description(""))
      ->capture_default_str();
  app.add_option("--interval-ms", words.interval,
                 "pause after every 256 blocks or every sweep over the range, whichever is "
                 "shorter; 0 keeps a CPU busy")
      ->type_name("N")
      ->check(CLI::Range(0, 1000).description(""))
      ->capture_default_str();
  app.add_flag("--json", options.json, "say everything as JSON objects, one a line");
}

int command(int argc, char** argv) {
  Options options;
  Words words;
  CLI::App app(kAbout, "daxfs-hold");
  app.failure_message(usage_message);
  app.footer(kFooter);
  app.set_version_flag("-V,--version", "daxfs-hold " DAXFS_VERSION);
  add_what_is_pinned(app, options, words);
  add_how_often(app, options, words);
  add_leases(app, options);
  add_work(app, options, words);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  if (const auto checked = check(options, words); !checked) {
    fmt::print(stderr, "daxfs-hold: {}\n", checked.error().text);
    return kUsage;
  }
  return run(options);
}

}  // namespace
}  // namespace daxfs::hold

int main(int argc, char** argv) {
  daxfs::occupy_standard_streams();
  try {
    return daxfs::hold::command(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "daxfs-hold: %s\n", error.what());
    return daxfs::hold::kCouldNotHold;
  }
}
