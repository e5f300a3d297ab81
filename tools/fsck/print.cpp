#include "tools/fsck/print.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/size_text.h"
#include "base/units.h"
#include "tools/fsck/fold.h"

namespace daxfs {
namespace {

using fsck::Finding;
using fsck::Report;
using fsck::Severity;

constexpr auto kStep = std::chrono::milliseconds(100);

bool only_looks(const FsckOptions& options) {
  return options.repair == FsckOptions::Repair::nothing;
}

const char* what_was_done(const Finding& finding, const FsckOptions& options) {
  if (finding.severity == Severity::fatal) return "";
  if (only_looks(options)) return " (nothing was changed)";
  return finding.fixed ? "" : " (not done)";
}

}  // namespace

FsckProgress::FsckProgress(const FsckOptions& options)
    : options_(options),
      bar_(options.progress_fd == 0 && !options.json &&
               (options.progress || ::isatty(STDERR_FILENO) == 1),
           options.progress) {}

void FsckProgress::advance(std::string_view phase, std::uint64_t done, std::uint64_t total) {
  if (phase != phase_) {
    phase_ = phase;
    ++pass_;
  }
  bar_.show(phase, done, total);
  const auto now = Clock::now();
  if (options_.progress_fd <= 0 || (now < next_ && done != total)) return;
  next_ = std::max(next_, now + kStep);
  const std::string line = fmt::format("{} {} {} {}\n", pass_, done, total, options_.pool);
  // The reader may be gone.
  static_cast<void>(!::write(options_.progress_fd, line.data(), line.size()));
}

void print_findings(const Report& report, const FsckOptions& options) {
  for (const FoldedFinding& line : fold(report.findings)) {
    const std::string times =
        line.times == 1 ? std::string() : fmt::format(" ({} times)", line.times);
    fmt::print("{}: {} [{}, {}]{}{}\n", line.object, line.text, to_string(line.first->severity),
               to_string(line.first->code), times, what_was_done(*line.first, options));
  }
  const std::uint64_t all =
      report.counts[0] + report.counts[1] + report.counts[2] + report.counts[3];
  if (all > report.findings.size()) {
    fmt::print("... and {} more\n", all - report.findings.size());
  }
}

void print_summary(const Report& report, const FsckOptions& options, const std::string& pool) {
  const auto numbers = [&] {
    const std::string pins =
        report.pins == 0
            ? std::string()
            : fmt::format(", {} pins of former mounts keep {} that no file has", report.pins,
                          format_size(bytes(BlockCount(report.kept_blocks))));
    return fmt::format("{} files, {} directories, {} free{}", report.files, report.directories,
                       format_size(bytes(BlockCount(report.free_blocks))), pins);
  };
  const std::uint64_t damage = report.count(Severity::repairable) + report.count(Severity::loss);
  if (report.cancelled) {
    fmt::print(stderr, "fsck.daxfs: {}: interrupted; run it again to go on\n", pool);
  } else if (report.count(Severity::fatal) != 0) {
    fmt::print(stderr,
               "fsck.daxfs: {}: {} problems cannot be repaired; copy what is readable to another "
               "pool (mount with -o ro)\n",
               pool, report.count(Severity::fatal));
  } else if (only_looks(options) && damage != 0) {
    fmt::print(stderr,
               "fsck.daxfs: {}: {} problems, {} of them lose data; repair with: fsck.daxfs "
               "-y {}\n",
               pool, damage, report.count(Severity::loss), pool);
  } else if (report.left != 0) {
    fmt::print(stderr,
               "fsck.daxfs: {0}: {1} problems are left, their repair loses something; look with: "
               "fsck.daxfs -n {0}, repair with: fsck.daxfs -y {0}\n",
               pool, report.left);
  } else if (damage != 0) {
    fmt::print("{}: repaired ({} problems, {} of them lost data): {}\n", pool, damage,
               report.count(Severity::loss), numbers());
  } else if (report.count(Severity::harmless) != 0) {
    fmt::print("{}: {}, clean: {}\n", pool,
               only_looks(options) ? "interrupted work, which a mount finishes"
                                   : "interrupted work finished",
               numbers());
  } else {
    fmt::print("{}: clean: {}\n", pool, numbers());
  }
}

void print_json(const Report& report, const FsckOptions& options, const std::string& pool,
                int exit_code) {
  nlohmann::json out;
  out["pool"] = pool;
  out["exit_code"] = exit_code;
  out["changed_nothing"] = only_looks(options);
  out["interrupted"] = report.cancelled;
  out["files"] = report.files;
  out["directories"] = report.directories;
  out["data"] = bytes(BlockCount(report.data_blocks)).value;
  out["pins"] = report.pins;
  out["kept_by_pins"] = bytes(BlockCount(report.kept_blocks)).value;
  out["free"] = bytes(BlockCount(report.free_blocks)).value;
  for (const Severity severity :
       {Severity::harmless, Severity::repairable, Severity::loss, Severity::fatal}) {
    out["counts"][std::string(to_string(severity))] = report.count(severity);
  }
  out["findings"] = nlohmann::json::array();
  for (const Finding& finding : report.findings) {
    out["findings"].push_back({{"code", to_string(finding.code)},
                               {"severity", to_string(finding.severity)},
                               {"object", finding.object},
                               {"text", finding.text},
                               {"fixed", finding.fixed && !only_looks(options)}});
  }
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace daxfs
