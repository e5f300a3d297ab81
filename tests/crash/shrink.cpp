#include "tests/crash/shrink.h"

#include <fmt/format.h>

namespace daxfs::testing {
namespace {

void fewer_operations(Explorer& explorer, Failure& failure, std::size_t& attempts) {
  for (std::size_t i = failure.sequence.size(); i > 0 && failure.sequence.size() > 1; --i) {
    if (attempts-- == 0) return;
    Sequence shorter = failure.sequence;
    shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(i - 1));
    // The crash may have been between two others now, so all moments are looked at.
    if (auto still = explorer.explore(shorter)) {
      failure = std::move(*still);
      i = failure.sequence.size() + 1;
    }
  }
}

// Drops lines from the cut, as long as it stays wrong: what is left had to arrive.
void fewer_lines(Explorer& explorer, Failure& failure, Cut CrashPoint::*which,
                 std::size_t& attempts) {
  const auto keep_if_wrong = [&](const CrashPoint& point) {
    auto wrong = explorer.look_at(failure.sequence, point);
    if (!wrong) return false;
    failure.point = point;
    failure.what = std::move(*wrong);
    return true;
  };
  for (std::size_t i = (failure.point.*which).size(); i > 0; --i) {
    if (attempts < 2) return;
    attempts -= 2;
    CrashPoint point = failure.point;
    Cut& cut = point.*which;
    cut.erase(cut.begin() + static_cast<std::ptrdiff_t>(i - 1));
    if (keep_if_wrong(point)) continue;
    point = failure.point;
    LineCut& line = (point.*which)[i - 1];
    if (line.mask == 0 || line.steps == 0) continue;
    line.mask = 0;
    keep_if_wrong(point);
  }
}

}  // namespace

Failure shrink(Explorer& explorer, Failure failure, std::size_t attempts) {
  fewer_operations(explorer, failure, attempts);
  if (failure.live) return failure;
  fewer_lines(explorer, failure, &CrashPoint::cut, attempts);
  if (failure.point.in_recovery) {
    fewer_lines(explorer, failure, &CrashPoint::recovery_cut, attempts);
  }
  return failure;
}

std::string report(Explorer& explorer, const Failure& failure, const PlantedBug* bug) {
  std::string out = fmt::format("{}\n  {}\n", failure.what, to_string(failure.sequence));
  if (!failure.live) out += explorer.describe(failure.sequence, failure.point);
  out += fmt::format("to see it again:\n  crash_explorer replay --operations '{}'",
                     to_string(failure.sequence));
  if (!failure.live) {
    out += fmt::format(" --at {} --arrived {}", failure.point.at, to_string(failure.point.cut));
  }
  if (failure.point.in_recovery) {
    out += fmt::format(" --recovery-at {} --recovery-arrived {}", failure.point.recovery_at,
                       to_string(failure.point.recovery_cut));
  }
  if (bug != nullptr) out += " --planted " + bug->name;
  return out + "\n";
}

}  // namespace daxfs::testing
