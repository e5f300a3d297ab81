// A pool that has been opened: its superblock checked, its journal replayed, its free space
// rebuilt. The root object of this folder; src/ builds the filesystem on it.
#pragma once

#include <absl/functional/function_ref.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/process_identity.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/inode_table.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"
#include "blockmap/pin_records.h"

namespace daxfs {

// What comes and goes with the use of a pool, and this program does not know: only a newer daxfs
// may touch it. A state whose checksum does not match says nothing.
Outcome<void> check_features(const pmem::PoolState& state);

using Uuid = decltype(pmem::Superblock::uuid);
std::string uuid_text(const Uuid& uuid);  // 8-4-4-4-12

// Two copies of one superblock, both whole, of which one may lack features that the other has.
bool differ_in_features_only(const pmem::Superblock& a, const pmem::Superblock& b);

class Volume {
 public:
  // Checks and mounts what lies on `medium`. Replays the journal, scans the inodes (in `threads`
  // threads), rebuilds the free space, frees orphans and finishes interrupted detaches. Everything
  // read is bounds-checked; damage is a Problem that names the record ("inode 17: checksum does not
  // match; run fsck.daxfs"), never a crash. `name` is the pool's path, for messages. read_only:
  // replays nothing to the medium; refuses if the journal holds something to replay. `alive`
  // and `locked` decide which recorded pins survive: the blocks of those are kept out of the free
  // space, whatever becomes of their files.
  static Outcome<std::unique_ptr<Volume>> open(Medium& medium, const std::string& name,
                                               bool read_only, unsigned threads,
                                               const OwnerAlive& alive = is_alive,
                                               const PinLocked& locked = {});

  // Reads and checks a superblock (copy A, else copy B) against the size of the medium.
  static Outcome<pmem::Superblock> read_superblock(const Medium& medium, const std::string& name);

  Medium& medium() { return medium_; }
  Journal& journal() { return *journal_; }
  Allocator& allocator() { return *allocator_; }
  InodeTable& inodes() { return *inodes_; }
  PinRecords& pin_records() { return *pin_records_; }
  // As of the mount.
  const pmem::Superblock& superblock() const { return super_; }
  std::string uuid() const { return uuid_text(super_.uuid); }
  // Where extents may lie: [data_start, last block).
  PoolRange data_area() const;
  // What a statfs calls the total: the data area.
  BlockCount data_blocks() const { return data_area().count; }

  // Before the pool gets what this bit (pmem::kFeature...) stands for: versions that do not know it
  // refuse the pool from now on. Durable on return, and nothing to do the next time. Not on a
  // read-only volume. Thread-safe; locks the journal. EIO.
  Status use_feature(std::uint64_t bit);

  // Nobody does meanwhile: both copies of the superblock say the same.
  void while_features_stay(absl::FunctionRef<void()> look) {
    const MutexLock guard(features_mutex_);
    look();
  }

  // A good unmount: sets kStateClean (unless read-only). No further change may follow.
  void close_clean();

  struct MountReport {
    std::uint32_t replayed = 0;  // transactions
    std::uint64_t inodes = 0;
    std::uint64_t orphans_freed = 0;
    std::uint64_t detaches_finished = 0;
    bool was_clean = false;
  };
  const MountReport& report() const { return report_; }

  // Pins of earlier mounts whose owners live, in the order of their slots.
  const std::vector<SurvivingPin>& survivors() const { return survivors_; }
  // What all of them keep though no file has it: the union of their `unowned`.
  const std::vector<PoolRange>& survivors_limbo() const { return survivors_limbo_; }

 private:
  Volume(Medium& medium, const pmem::Superblock& super, bool read_only);
  Outcome<void> mount(unsigned threads, const OwnerAlive& alive, const PinLocked& locked);
  Outcome<void> replay_journal();

  Status write_features(std::uint64_t features) REQUIRES(features_mutex_);
  // A crash may have come between the two copies of the superblock.
  Status settle_features();

  Medium& medium_;
  const pmem::Superblock super_;
  const bool read_only_;
  Mutex features_mutex_;  // who is about to set one; after inodes' locks, before the journal's
  std::atomic<std::uint64_t> features_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<InodeTable> inodes_;
  std::unique_ptr<PinRecords> pin_records_;
  std::vector<SurvivingPin> survivors_;
  std::vector<PoolRange> survivors_limbo_;
  MountReport report_;
};

}  // namespace daxfs
