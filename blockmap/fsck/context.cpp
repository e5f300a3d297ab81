#include "blockmap/fsck/context.h"

#include <fmt/format.h>

#include <algorithm>

namespace daxfs::fsck {

bool Context::accept(const std::vector<Finding>& found) {
  if (found.empty()) return false;
  const bool fix = std::ranges::all_of(
      found, [&](const Finding& f) { return f.severity <= options.repair_up_to; });
  for (const Finding& finding : found) {
    ++report.counts[static_cast<std::size_t>(finding.severity)];
    if (fix) {
      ++report.fixed;
    } else if (finding.severity != Severity::harmless) {
      ++report.left;
      blocked_ = true;
    }
    if (report.findings.size() < Report::kMostFindings) {
      report.findings.push_back(finding);
      report.findings.back().fixed = fix;
    }
  }
  if (fix) ++repairs_;
  return fix;
}

bool Context::cancelled() const {
  if (options.cancelled != nullptr && options.cancelled->load(std::memory_order_relaxed)) {
    report.cancelled = true;
  }
  return report.cancelled;
}

std::string name_of(InodeNumber inode) { return fmt::format("inode {}", inode.value); }

}  // namespace daxfs::fsck
