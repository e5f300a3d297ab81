// What fsck.daxfs says.
#pragma once

#include <chrono>
#include <string>

#include "blockmap/fsck/finding.h"
#include "tools/fsck/options.h"
#include "tools/progress_bar.h"

namespace daxfs {

// A bar on standard error that appears when the work takes long, or lines to a descriptor as
// fsck(8) wants them.
class FsckProgress : public fsck::Progress {
 public:
  explicit FsckProgress(const FsckOptions& options);
  void advance(std::string_view phase, std::uint64_t done, std::uint64_t total) override;
  void clear() { bar_.clear(); }

 private:
  using Clock = std::chrono::steady_clock;

  const FsckOptions& options_;
  ProgressBar bar_;
  Clock::time_point next_ = Clock::now();  // line
  std::string phase_;
  unsigned pass_ = 0;
};

void print_findings(const fsck::Report& report, const FsckOptions& options);
// The last line: clean, repaired, or what is left.
void print_summary(const fsck::Report& report, const FsckOptions& options, const std::string& pool);
void print_json(const fsck::Report& report, const FsckOptions& options, const std::string& pool,
                int exit_code);

}  // namespace daxfs
