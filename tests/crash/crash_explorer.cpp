// The explorer of crash states as a command: tests/crash/README.md.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>

#include "tests/crash/campaign.h"
#include "tests/crash/shrink.h"

namespace {

using namespace daxfs::testing;

struct Settings {
  unsigned threads = 2;
  std::uint64_t seed = 1;
  std::uint64_t states = 0;
  std::uint64_t seconds = 0;
  std::uint64_t at_least = 0;
  std::string planted;
  std::string operations;
  CrashPoint point;
  std::string arrived;
  std::string recovery_arrived;
};

const PlantedBug* planted(const Settings& settings) {
  if (settings.planted.empty()) return nullptr;
  const PlantedBug* const bug = find_planted_bug(settings.planted);
  if (bug == nullptr) {
    throw std::runtime_error(fmt::format(
        "no planted bug is called \"{}\"; crash_explorer bugs lists them", settings.planted));
  }
  return bug;
}

// Systematic workloads first, then random ones without end.
std::vector<Workload> systematic() {
  std::vector<Workload> all = single_operations();
  for (auto& workload : stories()) all.push_back(std::move(workload));
  for (auto& workload : pairs_of_operations()) all.push_back(std::move(workload));
  return all;
}

int campaign(const Settings& settings, bool with_random) {
  const auto pool = make_prepared_pool();
  const PlantedBug* const bug = planted(settings);
  std::vector<Workload> workloads = systematic();
  if (bug != nullptr) {
    for (Workload& workload : workloads) workload.first = 0;
  }
  CampaignOptions options{.explorer = {.cuts = {}, .seed = settings.seed},
                          .threads = settings.threads};
  if (settings.states != 0) options.enough_states = settings.states;
  if (settings.seconds != 0) options.at_most = std::chrono::seconds(settings.seconds);
  constexpr std::size_t kRandomLength = 12;
  const auto next = [&](std::uint64_t n) -> std::optional<Workload> {
    if (n < workloads.size()) return workloads[n];
    if (!with_random) return std::nullopt;
    return random_workload(settings.seed * 1'000'000 + n, kRandomLength);
  };
  double shown = 0;
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  const auto result =
      run_campaign(*pool, options, bug, next, [&](const ExplorerCounts& counts, double seconds) {
        if (!terminal || seconds < shown + 1) return;
        shown = seconds;
        fmt::print("\r{} sequences, {} states, {:.0f} a second ", counts.sequences, counts.mounted,
                   static_cast<double>(counts.mounted) / seconds);
        std::fflush(stdout);
      });
  if (terminal) fmt::print("\r");
  const ExplorerCounts& counts = result.counts;
  fmt::print(
      "{} sequences: {} crash states explored ({} of crashes inside recovery), {} distinct, {:.0f} "
      "a second; {} built with repetitions, {} different pools after recovery; {:.1f} s, seed {}\n",
      counts.sequences, counts.mounted, counts.in_recovery, result.distinct,
      static_cast<double>(counts.mounted) / result.seconds, counts.states, counts.judged,
      result.seconds, settings.seed);
  if (result.failure) {
    fmt::print("FAILED: {}", result.report);
    return 1;
  }
  if (counts.mounted < settings.at_least) {
    fmt::print("FAILED: {} states were wanted; the machine is too slow for this time\n",
               settings.at_least);
    return 1;
  }
  return 0;
}

int replay(const Settings& settings) {
  const auto pool = make_prepared_pool();
  const PlantedBug* const bug = planted(settings);
  Explorer explorer(*pool, {.cuts = {}, .seed = settings.seed}, bug);
  Failure failure{
      .sequence = parse_sequence(settings.operations), .point = settings.point, .what = {}};
  if (settings.arrived.empty()) {
    auto found = explorer.explore(failure.sequence);
    if (!found) {
      fmt::print("nothing is wrong: {} crash states\n", explorer.counts().mounted);
      return 0;
    }
    failure = std::move(*found);
  } else {
    failure.point.cut = parse_cut(settings.arrived);
    failure.point.in_recovery = !settings.recovery_arrived.empty();
    if (failure.point.in_recovery)
      failure.point.recovery_cut = parse_cut(settings.recovery_arrived);
    const auto wrong = explorer.look_at(failure.sequence, failure.point);
    if (!wrong) {
      fmt::print("nothing is wrong with this state\n{}",
                 explorer.describe(failure.sequence, failure.point));
      return 0;
    }
    failure.what = *wrong;
  }
  fmt::print("FAILED: {}", report(explorer, failure, bug));
  return 1;
}

int list_bugs() {
  for (const PlantedBug& bug : planted_bugs()) fmt::print("{:24} {}\n", bug.name, bug.what);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::off);
  Settings settings;
  settings.threads = std::max(1u, std::thread::hardware_concurrency());
  CLI::App app{"Explores what crashes may leave of operations on a daxfs pool in memory.",
               "crash_explorer"};
  app.require_subcommand(1);
  const auto common = [&](CLI::App* command) {
    command->add_option("--seed", settings.seed, "of samples and random workloads");
    command->add_option("--planted", settings.planted, "plant this bug (see bugs)");
  };
  const auto bounds = [&](CLI::App* command) {
    common(command);
    command->add_option("--threads", settings.threads, "how many explore at a time");
    command->add_option("--states", settings.states, "stop after so many states");
    command->add_option("--seconds", settings.seconds, "stop after so long");
    command->add_option("--at-least", settings.at_least, "fail if it were fewer states");
  };
  CLI::App* const pairs =
      app.add_subcommand("systematic", "all sequences of one and two operations, and the stories");
  bounds(pairs);
  CLI::App* const soak =
      app.add_subcommand("soak", "the same, then random sequences until --states or --seconds");
  bounds(soak);
  CLI::App* const again = app.add_subcommand("replay", "one sequence, or one crash state of it");
  common(again);
  again->add_option("--operations", settings.operations, "\"write /a 0 100; unlink /a\"")
      ->required();
  again->add_option("--at", settings.point.at, "calls of the medium before the crash");
  again->add_option("--arrived", settings.arrived, "what arrived, as a failure prints it");
  again->add_option("--recovery-at", settings.point.recovery_at,
                    "the same for a crash in recovery");
  again->add_option("--recovery-arrived", settings.recovery_arrived, "");
  app.add_subcommand("bugs", "lists the bugs that can be planted");
  CLI11_PARSE(app, argc, argv);
  try {
    if (pairs->parsed()) return campaign(settings, false);
    if (soak->parsed()) return campaign(settings, true);
    if (again->parsed()) return replay(settings);
    return list_bugs();
  } catch (const std::exception& error) {
    fmt::print(stderr, "crash_explorer: {}\n", error.what());
    return 2;
  }
}
