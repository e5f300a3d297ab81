// Explores what crashes may leave of a sequence of operations.
//
// At every moment at which something may be lost, crash images are built as the memory model allows
// (pending_lines.h, cuts.h). Each is mounted, which recovers it. What a mount made of an image
// decides everything that follows, and many images recover to the same: so for each *different*
// recovered pool
//   - fsck's check has to find nothing, and no block may be lost,
//   - the tree has to be what the operations promise (tree_state.h),
//   - further operations have to work on it, and leave it sound again.
// And while a mount that has something to recover does so, it crashes too: the same for all that
// this may leave.
#pragma once

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "blockmap/volume/volume.h"
#include "tests/crash/crash_points.h"
#include "tests/crash/cuts.h"
#include "tests/crash/recording.h"

namespace daxfs::testing {

// Where a crash happened and what of the pending lines arrived; for a crash during the recovery
// from it, the same again.
struct CrashPoint {
  std::uint32_t at = 0;
  Cut cut;
  bool in_recovery = false;
  std::uint32_t recovery_at = 0;
  Cut recovery_cut;
};

struct Failure {
  Sequence sequence;
  CrashPoint point;
  bool live = false;  // it was wrong before any crash
  std::string what;
};

struct ExplorerOptions {
  CutOptions cuts;
  CutOptions recovery_cuts{.all_subsets = 4, .per_kind = 6, .torn = 2};
  // Of so many kinds of recovery, at most, at each moment, the crashes inside are explored.
  std::size_t recoveries_per_moment = 3;
  std::uint64_t seed = 1;
};

struct ExplorerCounts {
  std::uint64_t sequences = 0;
  std::uint64_t states = 0;       // crash images built
  std::uint64_t mounted = 0;      // of them: not met before at this moment, so mounted
  std::uint64_t in_recovery = 0;  // of those: of a crash inside recovery
  std::uint64_t judged = 0;       // different pools after recovery: checked, compared, used

  void add(const ExplorerCounts& more);
  ExplorerCounts since(const ExplorerCounts& before) const;
};

// Not thread-safe; one for each thread.
class Explorer {
 public:
  // `pool` as make_prepared_pool() made it; it is copied. `bug` may be null.
  Explorer(const ReversibleMedium& pool, const ExplorerOptions& options, const PlantedBug* bug);
  ~Explorer();

  // Explores the crashes of the operations from number `first` on (those before it are in other
  // sequences, too) up to the first failure.
  std::optional<Failure> explore(const Sequence& sequence, std::size_t first = 0);

  // What is wrong with one crash state, if anything.
  std::optional<std::string> look_at(const Sequence& sequence, const CrashPoint& point);
  // For people: what of the pending lines arrived and what did not, and in what they lie.
  std::string describe(const Sequence& sequence, const CrashPoint& point);

  const ExplorerCounts& counts() const { return counts_; }
  // Hashes of all images that were mounted, those of all moments and sequences together.
  const absl::flat_hash_set<std::uint64_t>& images() const { return images_; }

 private:
  struct Scene;  // the moment that is being explored

  std::optional<std::string> mount_and_judge(Scene& scene, bool in_recovery);
  std::optional<std::string> crash_in_recovery(Scene& scene, const Trace& mount, CrashPoint& point);
  std::optional<std::string> judge(Volume& volume, const Scene& scene);
  std::optional<std::string> use(Filesystem& fs);
  std::uint64_t recovered_hash(Volume& volume) const;
  void start(const Recording& recording);

  const ExplorerOptions options_;
  const PlantedBug* const bug_;
  ReversibleMedium live_;   // operations are carried out here
  ReversibleMedium image_;  // and this is what the crash leaves
  pmem::Superblock super_;
  std::mt19937_64 random_;
  ExplorerCounts counts_;
  absl::flat_hash_set<std::uint64_t> images_;
};

}  // namespace daxfs::testing
