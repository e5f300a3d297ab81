#include "tests/crash/recording.h"

#include <fmt/format.h>

#include "blockmap/volume/check.h"
#include "tests/crash/virtual_clock.h"
#include "tests/model/mounted.h"

namespace daxfs::testing {
namespace {

constexpr ByteCount kPool(pmem::kMinPoolBytes);
constexpr std::int64_t kEpoch = 1'000'000;  // of the operations' time

// Pinned blocks stay what they are, and every block is somebody's.
std::optional<std::string> account(Mounted& mounted, ReversibleMedium& medium,
                                   const std::vector<PoolRange>& pinned) {
  const CheckReport report = check_volume(medium, "pool");
  if (!report.ok()) return "without a crash: " + report.errors.front();
  const std::uint64_t free = mounted.volume->allocator().free_blocks().value;
  const std::uint64_t limbo = mounted.fs->gate().totals().limbo.value;
  if (free + limbo != report.free_blocks) {
    return fmt::format("without a crash: {} blocks free and {} in limbo, but files leave {}", free,
                       limbo, report.free_blocks);
  }
  for (const PoolRange& run : mounted.volume->allocator().snapshot()) {
    for (const PoolRange& pin : pinned) {
      if (run.start < pin.end() && pin.start < run.end()) {
        return fmt::format("without a crash: block {} is free, but pinned", pin.start.value);
      }
    }
  }
  return std::nullopt;
}

}  // namespace

MountOptions crash_mount_options() { return mount_options(PinPolicy::defer); }

std::unique_ptr<ReversibleMedium> make_prepared_pool() {
  auto medium = std::make_unique<ReversibleMedium>(kPool);
  set_file_time(kEpoch / 2);
  format_medium(*medium);
  Mounted mounted(*medium, crash_mount_options());
  PathCalls calls(*mounted.fs);
  // Free space is not zero in an old pool: whatever shows it by mistake shows this.
  calls.create("/filler");
  const std::uint64_t most = bytes(mounted.volume->allocator().free_blocks()).value;
  calls.write("/filler", 0, std::string(most - 16 * kBlockSize, '\xee'));
  calls.unlink("/filler");
  prepare_tree(calls);
  return medium;
}

Recording record(ReversibleMedium& medium, const Sequence& sequence, const PlantedBug* bug) {
  Recording recording;
  const auto begin = medium.mark();
  set_file_time(kEpoch);
  medium.record_to(&recording.mount);
  {
    Mounted mounted(medium, crash_mount_options());
    medium.record_to(&recording.trace);
    Runner runner(*mounted.fs);
    recording.trees.push_back(state_of(*mounted.fs));
    for (std::uint32_t i = 0; i < sequence.size(); ++i) {
      set_file_time(kEpoch + i + 1);
      recording.trace.push_back({.kind = Event::Kind::begin, .operation = i, .words = {}});
      const bool done = runner.run(sequence[i], i);
      if (i + 1 == sequence.size()) recording.last_refused = !done;
      recording.trace.push_back({.kind = Event::Kind::end, .operation = i, .words = {}});
      try {
        recording.trees.push_back(state_of(*mounted.fs));
      } catch (const std::runtime_error& error) {
        recording.wrong = fmt::format("without a crash: {}", error.what());
        break;
      }
      recording.promises.push_back(sequence[i].promise());
      const auto pinned = runner.pinned();
      if (bug != nullptr && bug->running) bug->running(*mounted.fs, pinned);
      recording.wrong = account(mounted, medium, pinned);
      if (recording.wrong) break;
    }
    medium.record_to(nullptr);
  }
  const pmem::Superblock super = *Volume::read_superblock(medium, "pool");
  medium.roll_back(begin);
  if (bug != nullptr && bug->program) bug->program(recording.trace, super);
  return recording;
}

}  // namespace daxfs::testing
