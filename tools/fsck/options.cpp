#include "tools/fsck/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "tools/usage.h"

namespace daxfs {
namespace {

constexpr int kUsage = 16;

constexpr char kFooter[] =
    R"(Without -n, -p or -y: makes the repairs that lose nothing. If more is needed, it says what will be lost
and asks once; without a terminal it stops there, as -p does.

Exit code, as fsck(8): 0 clean; 1 damage repaired, or interrupted work finished; 4 damage is left;
8 could not check; 16 wrong usage; 32 interrupted by a signal (what was repaired stays repaired, a
further run goes on).

What is reported, one line each:
  [harmless]      no damage: what a crash interrupted, and every mount finishes
  [repairable]    damage whose repair loses nothing
  [data-loss]     something is gone; the line says what
  [unrepairable]  left as it is
docs/fsck.md explains each finding. Files that no name leads to are put into /lost+found as #INODE.
Free space is derived from what is in use, so that there are no leaked blocks to look for.)";

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// fsck(8) passes "-C", "-C0" or "-C 5"; CLI11 would take the pool for the descriptor.
std::vector<std::string> take_progress(int argc, char** argv, FsckOptions& options) {
  std::vector<std::string> rest;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (!word.starts_with("-C") || (word.size() > 2 && !is_number(word.substr(2)))) {
      rest.emplace_back(word);
      continue;
    }
    options.progress = true;
    std::string_view number = word.substr(2);
    if (number.empty() && i + 1 < argc && is_number(argv[i + 1])) number = argv[++i];
    std::from_chars(number.data(), number.data() + number.size(), options.progress_fd);
  }
  std::ranges::reverse(rest);  // as CLI11 wants them
  return rest;
}

}  // namespace

std::expected<FsckOptions, int> parse_fsck_options(int argc, char** argv) {
  CLI::App app{"Checks a daxfs pool that is not mounted, and repairs it.", "fsck.daxfs"};
  app.failure_message(usage_message);
  FsckOptions options;
  bool nothing = false;
  bool all = false;
  bool safe = false;
  bool ignored = false;
  app.add_option("POOL", options.pool, "The pool: a file or a device-DAX node")->required();
  auto* const no = app.add_flag(
      "-n", nothing, "Change nothing: open the pool read-only, and say what would be repaired");
  auto* const yes = app.add_flag("-y", all, "Make all repairs, also those that lose something");
  yes->excludes(no);
  app.add_flag("-p,-a", safe, "Make the repairs that lose nothing, never ask (boot scripts)")
      ->excludes(no)
      ->excludes(yes);
  app.add_flag("--json", options.json, "Print the report as JSON (never asks)");
  bool progress = false;
  app.add_flag("-C", progress,
               "Show progress, also where standard error is no terminal; -C FD "
               "writes \"pass done total pool\" lines to a descriptor");
  app.add_flag("-f,-r,-v,-T", ignored, "Accepted for fsck(8): every check is a full one");
  app.set_version_flag("-V,--version", "fsck.daxfs " DAXFS_VERSION);
  app.footer(kFooter);
  try {
    app.parse(take_progress(argc, argv, options));
  } catch (const CLI::ParseError& error) {
    return std::unexpected(app.exit(error) == 0 ? 0 : kUsage);
  }
  if (nothing) options.repair = FsckOptions::Repair::nothing;
  if (safe) options.repair = FsckOptions::Repair::safe;
  if (all) options.repair = FsckOptions::Repair::all;
  if (options.json && options.repair == FsckOptions::Repair::ask) {
    options.repair = FsckOptions::Repair::safe;
  }
  return options;
}

}  // namespace daxfs
