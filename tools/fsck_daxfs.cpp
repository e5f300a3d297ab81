// fsck.daxfs [-n] [-y] POOL: checks a pool that is not mounted.
//
// What an interrupted daemon left half-done (the journal, unlinked files that were open, long
// truncations) is brought to its end, as a mount does. Structural damage is reported; repairing it
// is not in this version.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <thread>

#include "blockmap/check.h"
#include "blockmap/pool.h"
#include "blockmap/size_text.h"
#include "blockmap/volume.h"
#include "tools/usage.h"

namespace {

// fsck(8)
constexpr int kClean = 0;
constexpr int kCorrected = 1;
constexpr int kUncorrected = 4;
constexpr int kFailed = 8;
constexpr int kUsage = 16;

struct Arguments {
  std::string pool;
  bool change_nothing = false;
  bool yes = false;
  bool automatic = false;
};

int complain(const std::string& text, int code) {
  fmt::print(stderr, "fsck.daxfs: {}\n", text);
  return code;
}

// Finishes interrupted work. Whether there was any.
daxfs::Outcome<bool> finish_interrupted(daxfs::Pool& pool) {
  auto volume = daxfs::Volume::open(pool.medium(), pool.path(), false,
                                    std::max(1u, std::thread::hardware_concurrency()));
  if (!volume) return std::unexpected(volume.error());
  const auto report = (*volume)->report();
  (*volume)->close_clean();
  if (pool.medium().failed())
    return daxfs::problem(EIO, fmt::format("{}: writing to it failed", pool.path()));
  return report.replayed + report.orphans_freed + report.detaches_finished > 0;
}

int check(const Arguments& arguments) {
  const auto pool = daxfs::Pool::open(arguments.pool, {.read_only = arguments.change_nothing});
  if (!pool) return complain(pool.error().text, kFailed);
  bool corrected = false;
  if (!arguments.change_nothing) {
    const auto finished = finish_interrupted(**pool);
    if (!finished) return complain(finished.error().text, kUncorrected);
    corrected = *finished;
  }
  const daxfs::CheckReport report = daxfs::check_volume((*pool)->medium(), (*pool)->path());
  for (const std::string& error : report.errors) fmt::print("{}: {}\n", (*pool)->path(), error);
  if (!report.ok()) {
    return complain(fmt::format("{}: {} errors; this version does not repair them: copy what is "
                                "readable to another pool "
                                "(mount with -o ro)",
                                (*pool)->path(), report.errors.size()),
                    kUncorrected);
  }
  fmt::print("{}: {}: {} files, {} directories, {} free\n", (*pool)->path(),
             corrected ? "interrupted work finished, clean" : "clean", report.files,
             report.directories,
             daxfs::format_size(daxfs::bytes(daxfs::BlockCount(report.free_blocks))));
  return corrected ? kCorrected : kClean;
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app{"Checks a daxfs pool that is not mounted, and finishes what a crash interrupted.",
               "fsck.daxfs"};
  app.failure_message(daxfs::usage_message);
  Arguments arguments;
  app.add_option("POOL", arguments.pool, "The pool: a file or a device-DAX node")->required();
  auto* const no = app.add_flag("-n", arguments.change_nothing, "Change nothing, only look");
  app.add_flag("-y", arguments.yes,
               "Finish interrupted work without asking (the default: it never asks)")
      ->excludes(no);
  app.add_flag("-a,-p", arguments.automatic, "As -y, for boot scripts")->excludes(no);
  app.set_version_flag("-V,--version", "fsck.daxfs " DAXFS_VERSION);
  app.footer(
      "Exit code: 0 clean, 1 interrupted work was finished, 4 errors remain, 8 could not check, 16 "
      "usage.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kClean : kUsage;
  }
  return check(arguments);
} catch (const std::exception& error) {
  return complain(error.what(), kFailed);
}
