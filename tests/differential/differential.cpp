// differential: random operations of several users on a daxfs mount and on an ext4, and every
// answer, and the whole trees, compared. README.md says what, and what may differ.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <numeric>
#include <random>

#include "tests/differential/piece.h"

namespace daxfs::differential {
namespace {

constexpr std::size_t kPiece = 20'000;  // steps
constexpr std::array<const char*, 3> kCaches{"through", "writeback", "none"};
constexpr std::size_t kShown = 60;

struct Options {
  std::string build;
  std::uint64_t operations = 60'000;
  double seconds = 0;
  std::uint64_t seed = 0;
  std::size_t first = kPiece;
  std::string cache;
  std::set<std::string> left_out;
  unsigned shorten_seconds = 120;
};

void show(const Piece& piece, const Failure& failure, const Options& options) {
  for (std::size_t i = failure.lines.size() - std::min(failure.lines.size(), kShown);
       i < failure.lines.size(); ++i)
    fmt::print("  {}\n", failure.lines[i]);
  std::string more;
  for (const std::string& name : options.left_out) more += " --leave-out '" + name + "'";
  fmt::print("DIFFERENCE: {}\n", failure.what);
  fmt::print("again: --seed {} --cache {} --first {} --operations {}{}\n", piece.seed, piece.cache,
             failure.at, failure.at, more);
  std::fflush(stdout);
}

Piece next_piece(const Options& options, std::uint64_t number) {
  Piece piece;
  piece.seed = options.seed + number;
  piece.left_out = options.left_out;
  piece.cache = options.cache.empty() ? kCaches[piece.seed % kCaches.size()] : options.cache;
  piece.steps.resize(options.first);
  std::iota(piece.steps.begin(), piece.steps.end(), std::size_t{0});
  return piece;
}

int run(const Options& options) {
  Filesystems filesystems(options.build);
  Holder holder;
  const auto began = std::chrono::steady_clock::now();
  std::uint64_t done = 0;
  const auto passed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  for (std::uint64_t number = 0;
       options.seconds > 0 ? passed() < options.seconds : done < options.operations; ++number) {
    const Piece piece = next_piece(options, number);
    if (const std::string failed = filesystems.remount(piece.cache); !failed.empty())
      throw std::runtime_error(failed);
    if (auto failure = run_piece(filesystems, holder, piece)) {
      show(piece, *failure, options);
      if (options.shorten_seconds == 0) return 1;
      const Piece fewer = shortened(filesystems, holder, piece, *failure, options.shorten_seconds);
      fmt::print("the fewest steps that were found to differ, {}:\n", fewer.steps.size());
      for (const std::string& line : failure->lines) fmt::print("  {}\n", line);
      fmt::print("DIFFERENCE: {}\n", failure->what);
      return 1;
    }
    done += piece.steps.size();
    fmt::print("seed {} cache {}: {} operations in all, no difference, {:.0f} s\n", piece.seed,
               piece.cache, done, passed());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace daxfs::differential

int main(int count, char** words) {
  using namespace daxfs::differential;
  Options options;
  CLI::App app("Random operations on daxfs and on ext4, and all answers compared.");
  app.add_option("--build", options.build, "where daxfs and fsck.daxfs are")->required();
  app.add_option("--operations", options.operations, "how many, in pieces of 20000");
  app.add_option("--seconds", options.seconds, "for so long, instead");
  app.add_option("--seed", options.seed, "of the first piece; the next has the next one");
  app.add_option("--first", options.first, "so many operations of each piece");
  app.add_option("--cache", options.cache, "through, writeback or none, instead of each in turn");
  app.add_option("--leave-out", options.left_out, "a step (\"rename\", \"pin\", ...) to leave out");
  app.add_option("--shorten", options.shorten_seconds, "so many seconds, after a difference");
  CLI11_PARSE(app, count, words);
  if (options.seed == 0) options.seed = 1 + std::random_device()() % 1'000'000;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, [](int) { interrupt(); });
  try {
    return run(options);
  } catch (const Skip& reason) {
    fmt::print("SKIPPED: {}\n", reason.what());
    return 77;
  } catch (const std::exception& failed) {
    fmt::print("failed: {}\n", failed.what());
    return 1;
  }
}
