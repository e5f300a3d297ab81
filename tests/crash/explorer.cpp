#include "tests/crash/explorer.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "blockmap/volume/check.h"
#include "tests/crash/objects.h"
#include "tests/crash/virtual_clock.h"
#include "tests/model/mounted.h"

namespace daxfs::testing {
namespace {

constexpr std::int64_t kTimeOfRecovery = 2'000'000;

Outcome<std::unique_ptr<Volume>> mount(Medium& medium) {
  set_file_time(kTimeOfRecovery);
  return Volume::open(medium, "pool", false, 1);
}

}  // namespace

struct Explorer::Scene {
  const Recording& recording;
  Moment moment;
  absl::flat_hash_set<std::uint64_t> met;     // images
  absl::flat_hash_set<std::uint64_t> judged;  // pools after recovery
  std::size_t recoveries = 0;
  absl::flat_hash_set<std::uint64_t> recovered;  // kinds of recovery whose crashes were explored
  Trace mount = {};                              // of the last mount
  bool worth_crashing = false;                   // it had something to recover, of a new kind
};

void ExplorerCounts::add(const ExplorerCounts& more) {
  sequences += more.sequences;
  states += more.states;
  mounted += more.mounted;
  in_recovery += more.in_recovery;
  judged += more.judged;
}

ExplorerCounts ExplorerCounts::since(const ExplorerCounts& before) const {
  return {.sequences = sequences - before.sequences,
          .states = states - before.states,
          .mounted = mounted - before.mounted,
          .in_recovery = in_recovery - before.in_recovery,
          .judged = judged - before.judged};
}

Explorer::Explorer(const ReversibleMedium& pool, const ExplorerOptions& options,
                   const PlantedBug* bug)
    : options_(options), bug_(bug), live_(pool.size()), image_(pool.size()) {
  live_.copy_from(pool);
  image_.copy_from(pool);
  super_ = *Volume::read_superblock(pool, "pool");
}

Explorer::~Explorer() = default;

// Puts the image where the live medium was when the operations began.
void Explorer::start(const Recording& recording) {
  play(recording.mount, image_, [](const Moment&, const PendingLines&) {});
}

std::optional<Failure> Explorer::explore(const Sequence& sequence, std::size_t first) {
  const Recording recording = record(live_, sequence, bug_);
  ++counts_.sequences;
  if (recording.wrong) {
    return Failure{.sequence = sequence, .point = {}, .live = true, .what = *recording.wrong};
  }
  // Nothing new to see in an operation that does nothing.
  if (recording.last_refused && first + 1 == sequence.size()) return std::nullopt;

  random_.seed(options_.seed ^ std::hash<std::string>()(to_string(sequence)));
  const auto begin = image_.mark();
  start(recording);
  std::optional<Failure> failure;
  Scene scene{.recording = recording, .moment = {}, .met = {}, .judged = {}, .recovered = {}};
  play(recording.trace, image_, [&](const Moment& moment, const PendingLines& pending) {
    const bool wanted = moment.finished > first || (moment.finished == first && moment.in_flight);
    if (failure || !wanted) return;
    if (moment.finished != scene.moment.finished || moment.in_flight != scene.moment.in_flight) {
      scene.met.clear();
      scene.judged.clear();
      scene.recovered.clear();
    }
    scene.moment = moment;
    scene.recoveries = 0;
    for_each_cut(
        pending, options_.cuts, [&](std::uint64_t offset) { return object_at(super_, offset); },
        random_,
        [&](const Cut& cut) {
          if (failure) return;
          const auto durable = image_.mark();
          pending.apply(cut, image_);
          CrashPoint point{.at = moment.at, .cut = cut, .recovery_cut = {}};
          auto wrong = mount_and_judge(scene, false);
          if (!wrong && scene.worth_crashing) {
            const Trace mounting = std::move(scene.mount);
            wrong = crash_in_recovery(scene, mounting, point);
          }
          if (wrong) failure = Failure{.sequence = sequence, .point = point, .what = *wrong};
          image_.roll_back(durable);
        });
  });
  image_.roll_back(begin);
  return failure;
}

// Leaves the image as it was.
std::optional<std::string> Explorer::mount_and_judge(Scene& scene, bool in_recovery) {
  ++counts_.states;
  scene.worth_crashing = false;
  if (!scene.met.insert(image_.hash()).second) return std::nullopt;
  images_.insert(image_.hash());
  ++counts_.mounted;
  if (in_recovery) ++counts_.in_recovery;

  const auto crashed = image_.mark();
  if (bug_ != nullptr && bug_->reader) bug_->reader(image_, super_);
  scene.mount.clear();
  if (!in_recovery) image_.record_to(&scene.mount);
  std::optional<std::string> wrong;
  {
    auto volume = mount(image_);
    image_.record_to(nullptr);
    if (!volume) {
      wrong = "it cannot be mounted: " + volume.error().text;
    } else {
      const std::uint64_t recovered = recovered_hash(**volume);
      const Volume::MountReport report = (*volume)->report();
      const bool recovers = report.replayed + report.orphans_freed + report.detaches_finished > 0;
      if (recovers && !in_recovery && scene.recoveries < options_.recoveries_per_moment &&
          scene.recovered.insert(recovered + report.replayed).second) {
        ++scene.recoveries;
        scene.worth_crashing = true;
      }
      if (scene.judged.insert(recovered).second) {
        ++counts_.judged;
        wrong = judge(**volume, scene);
      }
    }
  }
  image_.roll_back(crashed);
  return wrong;
}

std::optional<std::string> Explorer::crash_in_recovery(Scene& scene, const Trace& mount,
                                                       CrashPoint& point) {
  Trace trace = mount;
  if (bug_ != nullptr && bug_->recovery) bug_->recovery(trace, super_);
  std::optional<std::string> wrong;
  const auto crashed = image_.mark();
  play(trace, image_, [&](const Moment& moment, const PendingLines& pending) {
    if (wrong) return;
    for_each_cut(
        pending, options_.recovery_cuts,
        [&](std::uint64_t offset) { return object_at(super_, offset); }, random_,
        [&](const Cut& cut) {
          if (wrong) return;
          const auto durable = image_.mark();
          pending.apply(cut, image_);
          wrong = mount_and_judge(scene, true);
          if (wrong) {
            point.in_recovery = true;
            point.recovery_at = moment.at;
            point.recovery_cut = cut;
          }
          image_.roll_back(durable);
        });
  });
  image_.roll_back(crashed);
  return wrong;
}

// Of everything that decides what happens from now on: not the journal, which is empty, and not
// what is free.
std::uint64_t Explorer::recovered_hash(Volume& volume) const {
  std::uint64_t hash = image_.hash();
  const std::uint64_t journal_end =
      super_.journal_start +
      blocks_for(ByteCount(std::uint64_t{super_.journal_lanes} * super_.lane_bytes)).value;
  for (std::uint64_t block = super_.journal_start; block < journal_end; ++block) {
    hash ^= image_.block_hash(PoolBlock(block));
  }
  for (const PoolRange& run : volume.allocator().snapshot()) {
    for (PoolBlock block = run.start; block < run.end(); block += BlockCount(1)) {
      hash ^= image_.block_hash(block);
    }
  }
  return hash;
}

std::optional<std::string> Explorer::judge(Volume& volume, const Scene& scene) {
  const CheckReport report = check_volume(image_, "pool");
  if (!report.ok()) return "check: " + report.errors.front();
  const std::uint64_t free = volume.allocator().free_blocks().value;
  if (free != report.free_blocks) {
    return fmt::format("{} blocks free, but inodes leave {}", free, report.free_blocks);
  }
  try {
    Filesystem fs({.volume = volume, .options = crash_mount_options()});
    const TreeState found = state_of(fs);
    if (blocks_of(found) != report.data_blocks) {
      return fmt::format("files have {} blocks, but {} are in use", blocks_of(found),
                         report.data_blocks);
    }
    const auto& trees = scene.recording.trees;
    const std::uint32_t n = scene.moment.finished;
    if (!scene.moment.in_flight) {
      if (const auto wrong = difference(found, trees[n])) {
        return "what was acknowledged is lost: " + *wrong;
      }
    } else if (const auto wrong = difference_in_flight(found, trees[n], trees[n + 1],
                                                       scene.recording.promises[n])) {
      return wrong;
    }
    if (const auto wrong = use(fs)) return "used afterwards: " + *wrong;
  } catch (const std::exception& error) {
    return error.what();
  }
  const CheckReport again = check_volume(image_, "pool");
  if (!again.ok()) return "check after further use: " + again.errors.front();
  const std::uint64_t left = volume.allocator().free_blocks().value;
  if (left != again.free_blocks) {
    return fmt::format("{} blocks free after further use, but inodes leave {}", left,
                       again.free_blocks);
  }
  return std::nullopt;
}

// Everything that was recovered goes on working: new files get blocks that nobody else has, and
// give them back.
std::optional<std::string> Explorer::use(Filesystem& fs) {
  set_file_time(kTimeOfRecovery + 1);
  const TreeState before = state_of(fs);
  PathCalls calls(fs);
  const std::string bytes(3 * kBlockSize + 77, '#');
  calls.mkdir("/zz");
  calls.create("/zz/new");
  calls.write("/zz/new", 50, bytes);
  calls.punch("/zz/new", kBlockSize, kBlockSize);
  calls.rename("/zz/new", "/zz/old");
  const TreeState between = state_of(fs);
  std::string expected = std::string(50, '\0') + bytes;
  std::fill_n(expected.begin() + kBlockSize, kBlockSize, '\0');
  if (between.at("/zz/old").content != expected) return "a new file does not hold what was written";
  for (const auto& [path, state] : before) {
    if (path.empty()) continue;
    if (between.at(path).content != state.content) {
      return fmt::format("writing a new file changed \"{}\"", path);
    }
  }
  calls.truncate("/zz/old", 100);
  for (const auto& [path, state] : before) {
    if (!S_ISREG(state.mode)) continue;
    // Nothing would do otherwise.
    for (const std::string& kept : {path.substr(0, path.rfind('/')), path}) {
      if (before.at(kept).flags != 0) calls.set_flags(kept, 0);
    }
    calls.write(path, state.size / 2, "in the middle");
    calls.unlink(path);
    break;
  }
  calls.unlink("/zz/old");
  calls.rmdir("/zz");
  return std::nullopt;
}

std::optional<std::string> Explorer::look_at(const Sequence& sequence, const CrashPoint& point) {
  const Recording recording = record(live_, sequence, bug_);
  if (recording.wrong) return recording.wrong;
  const auto begin = image_.mark();
  start(recording);
  std::optional<std::string> wrong;
  play(recording.trace, image_, [&](const Moment& moment, const PendingLines& pending) {
    if (moment.at != point.at || wrong) return;
    const auto durable = image_.mark();
    pending.apply(point.cut, image_);
    Scene scene{.recording = recording, .moment = moment, .met = {}, .judged = {}, .recovered = {}};
    if (!point.in_recovery) {
      wrong = mount_and_judge(scene, false);
    } else {
      const auto crashed = image_.mark();
      if (bug_ != nullptr && bug_->reader) bug_->reader(image_, super_);
      Trace mounting;
      image_.record_to(&mounting);
      static_cast<void>(mount(image_));
      image_.record_to(nullptr);
      image_.roll_back(crashed);
      if (bug_ != nullptr && bug_->recovery) bug_->recovery(mounting, super_);
      play(mounting, image_, [&](const Moment& inner, const PendingLines& left) {
        if (inner.at != point.recovery_at || wrong) return;
        const auto before = image_.mark();
        left.apply(point.recovery_cut, image_);
        wrong = mount_and_judge(scene, true);
        image_.roll_back(before);
      });
    }
    image_.roll_back(durable);
  });
  image_.roll_back(begin);
  return wrong;
}

std::string Explorer::describe(const Sequence& sequence, const CrashPoint& point) {
  const Recording recording = record(live_, sequence, bug_);
  const auto begin = image_.mark();
  start(recording);
  std::string out;
  play(recording.trace, image_, [&](const Moment& moment, const PendingLines& pending) {
    if (moment.at != point.at || !out.empty()) return;
    out = fmt::format("after {} of {} calls; {} operations had returned{}\n", moment.at,
                      recording.trace.size(), moment.finished,
                      moment.in_flight ? fmt::format(", \"{}\" was in flight",
                                                     to_string(sequence[moment.finished]))
                                       : std::string());
    for (const PendingLines::Line& line : pending.lines()) {
      const auto arrived = std::ranges::find(point.cut, line.offset, &LineCut::offset);
      const char* how = "lost";
      if (arrived != point.cut.end()) {
        how = arrived->steps >= line.steps.size() ? "arrived" : "arrived in part";
      }
      out += fmt::format("  {:#09x} {}: {}\n", line.offset,
                         name_of_place(super_, live_, line.offset), how);
    }
  });
  image_.roll_back(begin);
  if (point.in_recovery) {
    out += fmt::format("and the mount crashed after {} of its calls\n", point.recovery_at);
  }
  return out;
}

}  // namespace daxfs::testing
