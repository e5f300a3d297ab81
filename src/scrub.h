// Checks a filesystem that is mounted and in use: the records on the medium, what is in DRAM
// against them, and that each block of the pool is in exactly one place.
//
// It works in steps of a few milliseconds, and holds no lock but those that a read of the same file
// takes. How it can judge blocks while they change hands: the allocator notes what it hands out or
// gets back from begin() on. A block that it has not seen since then has not become anybody's
// anew; so if it is in use, and no inode had it when the walk came by, and it is not in limbo, then
// nobody has it; and if two inodes had it, then both have it. For that, blocks that leave an
// inode reach limbo or the free space before its lock is let go (and the gate knows what is
// between the two). What has changed hands is left to the next scrub.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/block_bitmap.h"
#include "blockmap/fsck/inspect_inode.h"
#include "src/filesystem.h"

namespace daxfs {

// Not thread-safe. Ends with its destructor, before the filesystem.
class Scrub {
 public:
  static constexpr std::chrono::milliseconds kStep{5};
  // Each step takes about that long, and does at least something. EBUSY: another one is under way;
  // ENOMEM.
  static Result<std::unique_ptr<Scrub>> begin(Filesystem& filesystem,
                                              std::chrono::milliseconds step = kStep);
  ~Scrub();
  Scrub(const Scrub&) = delete;
  Scrub& operator=(const Scrub&) = delete;

  // Works for a step and appends JSON lines: {"finding": ..}, {"progress": ..}, and as
  // the last one {"summary": ..}. False: that was it.
  bool step(std::string& lines);

 private:
  enum class Phase : std::uint8_t { pool, inodes, pins, blocks, suspects, done };
  // What is wrong with how the filesystem goes on, rather than with one record: with every further
  // change it can destroy more.
  enum class Spreads : bool { no, yes };
  using Severity = fsck::Severity;
  // A block or more that several have.
  struct Shared {
    PoolRange range;
    std::vector<std::string> by;
  };

  Scrub(Filesystem& filesystem, std::chrono::milliseconds step);

  // --- scrub.cpp ---
  void advance();
  void begin_phase(Phase phase);
  void found(std::string_view code, Severity severity, const std::string& object,
             const std::string& text, Spreads spreads = Spreads::no);
  void found(const fsck::Finding& finding);
  void next_inodes();
  std::string progress() const;
  std::string summary() const;

  // --- scrub_pool.cpp: what is not an inode ---
  void check_superblocks();
  void check_pool();
  void check_places();  // where inodes and pin records lie
  void next_pins();
  void look_at_record(const PinInfo& pin);
  void look_at_pin(const PinInfo& pin);
  void next_blocks();
  // What of the run nobody has, as far as the walk has come by.
  void append_orphaned(PoolRange run, std::vector<PoolRange>& out);
  void judge_suspects();

  // --- scrub_inode.cpp ---
  void look_at(InodeNumber number);
  void look_at_slot(InodeNumber number);
  void look_at_inode(Inode& inode) REQUIRES_SHARED(inode.lock);
  // The runs are somebody's, and stay so for as long as this takes.
  void claim(const std::string& who, const std::vector<PoolRange>& runs);
  // The same for what never goes to limbo; takes no lock but the allocator's.
  void claim_from_allocator(const std::string& who, const std::vector<PoolRange>& runs);
  void note_suspects(const std::string& who, const std::vector<PoolRange>& runs);
  void compare(Inode& inode, const fsck::InodePlan& plan) REQUIRES_SHARED(inode.lock);
  // Some blocks of the directory from `directory_at` on; false at its end.
  bool look_at_directory(InodeNumber number);
  void look_at_directory_block(Inode& inode, FileBlock at, PoolBlock block,
                               std::vector<InodeRef>& entries) REQUIRES_SHARED(inode.lock);
  void look_at_entry(InodeNumber directory, PoolOffset at, std::vector<InodeRef>& entries);
  void compare_names(Inode& inode, FileBlock at, PoolBlock block,
                     const std::vector<unsigned>& granules) REQUIRES_SHARED(inode.lock);

  // How far each phase is, and where it ends: those who come later would be chased for ever.
  struct Place {
    Phase phase = Phase::pool;
    InodeNumber inode{1};
    InodeNumber last_inode{0};
    std::uint64_t pins_to_look_at = 0;      // in the order of their ids, so new ones come behind
    std::optional<FileBlock> directory_at;  // within inode
    PinId pin;
    PoolBlock block;
  };
  struct Tally {
    std::uint64_t files = 0;
    std::uint64_t directories = 0;
    std::uint64_t pins = 0;
    BlockCount claimed;
    std::uint64_t findings = 0;
  };

  Filesystem& fs_;
  Volume& volume_;
  const std::chrono::milliseconds step_;
  bool watching_ = false;
  Place at_;
  BlockBitmap moved_;  // since begin(); the allocator's
  BlockBitmap owned_;  // what the walk has come by
  // What all inodes are asked about once more.
  std::vector<PoolRange> orphaned_;
  std::vector<Shared> shared_;
  std::string lines_;
  Tally tally_;
};

}  // namespace daxfs
