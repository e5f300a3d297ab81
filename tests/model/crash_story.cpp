#include "tests/model/crash_story.h"

#include <fmt/format.h>

#include "blockmap/check.h"

namespace daxfs::testing {
namespace {

constexpr ByteCount kPool(4 << 20);

MountOptions options() { return mount_options(PinPolicy::refuse); }

}  // namespace

CrashStory::CrashStory() : medium_(kPool) {
  format_medium(medium_);
  mounted_ = std::make_unique<Mounted>(medium_, options());
  calls_ = std::make_unique<PathCalls>(*mounted_->fs);
  // Free space is not zero in an old pool: whatever shows it by mistake shows this.
  calls_->create("/filler");
  const std::uint64_t most = bytes(mounted_->volume->allocator().free_blocks()).value;
  calls_->write("/filler", 0, std::string(most - 16 * kBlockSize, '\xee'));
  calls_->unlink("/filler");
}

void CrashStory::prepare(const Action& action) { action(*calls_); }

void CrashStory::begin() {
  if (begun_) return;
  begun_ = true;
  medium_.mark();
  start_ = state_of(*mounted_->fs);
}

void CrashStory::operation(const std::string& name, const Action& action, InFlight in_flight) {
  begin();
  Operation done{
      .name = name, .in_flight = in_flight, .begin = medium_.calls(), .end = 0, .after = {}};
  action(*calls_);
  done.end = medium_.calls();
  done.after = state_of(*mounted_->fs);
  operations_.push_back(std::move(done));
}

std::optional<std::string> CrashStory::explore(const RecordingMedium::Options& options,
                                               std::size_t& states) {
  std::optional<std::string> wrong;
  states += medium_.explore(options, [&](Medium& image, std::size_t done) {
    if (wrong) return;
    if (const auto what = judge(image, done)) {
      wrong = fmt::format("crash behind call {} of {}", done, medium_.calls());
      for (const Operation& operation : operations_) {
        *wrong +=
            fmt::format("\n  {} (calls {} to {}){}", operation.name, operation.begin, operation.end,
                        operation.begin < done && done < operation.end ? "  <- in flight" : "");
      }
      *wrong += "\n" + *what;
    }
  });
  return wrong;
}

std::optional<std::string> CrashStory::judge(Medium& image, std::size_t done) const {
  try {
    const Mounted mounted(image, options());
    const CheckReport report = check_volume(image, "pool");
    if (!report.ok()) return "check: " + report.errors.front();
    const std::uint64_t free = mounted.volume->allocator().free_blocks().value;
    if (free != report.free_blocks) {
      return fmt::format("{} blocks free, but inodes leave {}", free, report.free_blocks);
    }
    return judge_tree(state_of(*mounted.fs), done);
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::optional<std::string> CrashStory::judge_tree(const TreeState& found, std::size_t done) const {
  const TreeState* before = &start_;
  for (const Operation& operation : operations_) {
    if (done >= operation.end) {
      before = &operation.after;
      continue;
    }
    if (done <= operation.begin) break;
    const Tolerance tolerance =
        operation.in_flight == InFlight::in_place ? Tolerance::content : Tolerance::times;
    const auto not_before = difference(found, *before, tolerance, operation.after);
    if (!not_before) return std::nullopt;
    const auto not_after = difference(found, operation.after, tolerance, *before);
    if (!not_after) return std::nullopt;
    return fmt::format("neither as before ({}) nor as after ({})", *not_before, *not_after);
  }
  const auto wrong = difference(found, *before, Tolerance::none, *before);
  if (wrong) return "an acknowledged state is lost: " + *wrong;
  return std::nullopt;
}

}  // namespace daxfs::testing
