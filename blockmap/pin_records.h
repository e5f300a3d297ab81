// Long-term pins, recorded in the pool with their owners, so that they outlive the daemon: the next
// mount keeps what a living process of the same boot had pinned out of the free space.
//
// docs/format.md shows what lies on the medium: blocks of 31 record slots, first those of a region
// that mkfs set aside, then blocks of the data area, chained, given back when they have run empty.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/inlined_vector.h>
#include <absl/functional/function_ref.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/pin_owner.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

struct PinRecord {
  PinOwner owner;
  InodeNumber inode;
  std::uint32_t generation = 0;
  FileOffset offset;
  ByteCount length;
  bool write = false;
  bool doorbell = false;  // one block, which clients count in; `offset` is the attachment's number
  std::int64_t since_ns = 0;
  std::uint64_t pin_id = 0;

  auto operator<=>(const PinRecord&) const = default;
};

// Where a record lies: its place in the pool, in units of 128 bytes. The same from mount to mount.
struct PinSlot {
  std::uint64_t position = 0;
  auto operator<=>(const PinSlot&) const = default;
};

struct RecordedPin {
  PinSlot slot;
  PinRecord pin;
  std::vector<PoolRange> blocks;  // as they were given to add()
};

// A pin of an earlier mount whose owner still lives.
struct SurvivingPin : RecordedPin {
  // The part of `blocks` that belongs to no file any more, ascending and disjoint: limbo. These
  // blocks are not free. The end of a block's last pin removes the record, then gives the block to
  // the allocator. Several survivors can have the same block here. The rest of `blocks` belongs to
  // files.
  std::vector<PoolRange> unowned;
  // Copies of direct access that were in flight at the mount, over what the file had then: the
  // doorbell in which they are counted. 0: an ordinary pin, or the doorbell's own.
  PoolBlock copies_of{};
};

// Whether somebody still maps what the pin with this number holds (pin_lock.h). Asked for pins
// whose owner is dead.
using PinLocked = std::function<bool(std::uint64_t pin_id)>;

// How much of the data area records may take: all that is free, or, for users who are not trusted,
// a share that they have together.
enum class PinRoom { all, share };

// Thread-safe. Memory: about 3 bytes for each slot in use, nothing for one that was never used.
class PinRecords {
 public:
  PinRecords(Medium& medium, Journal& journal, Allocator& allocator, const pmem::Superblock& super,
             bool read_only);

  // Durable on return. ENOSPC when the region is full and the pool too, ENOMEM when the region and
  // the share are; then nothing has changed. EROFS on a read-only volume, EIO when the medium has
  // failed. `blocks` lie in the data area and none is empty. Costs one fence, whatever the number
  // of pins held.
  Result<PinSlot> add(const PinRecord& pin, std::span<const PoolRange> blocks,
                      PinRoom room = PinRoom::all);

  // A 64th of the pool: what records of users who are not trusted may take of the data area.
  static constexpr std::uint64_t kShare = 64;

  // Durable on return: only then may blocks that nobody else pins or owns go to the allocator. One
  // fence, however many slots. Each slot is one that add() returned or a survivor has, once. On a
  // read-only volume the records stay, and nothing happens.
  void remove(PinSlot slot) { remove_many({&slot, 1}); }
  void remove_many(std::span<const PinSlot> slots);

  // Slots in use, and blocks of the data area that hold some of them.
  std::uint64_t slots_used() const;
  BlockCount spill_blocks() const;

  // What is wrong with the headers on the medium. Else visits the blocks of the data area that hold
  // records, which stay so meanwhile (its lock is held). For a check while it is in use.
  Outcome<void> verify(absl::FunctionRef<void(const std::vector<PoolRange>&)> visit) const;

  // --- mounting: in this order, before anything else ---

  // Reads what is recorded: pins of living owners, and those that are locked, become survivors, all
  // others are as good as gone. Changes nothing on the medium. Blocks of the data area that hold
  // records are appended to `used`. EUCLEAN if the region's or a chained block's header is damaged;
  // a record that makes no sense is no pin.
  Outcome<std::vector<SurvivingPin>> open(const OwnerAlive& alive, const PinLocked& locked,
                                          std::vector<PoolRange>& used);
  // Takes records without a living owner off the medium, and gives back blocks that hold none.
  void settle();

  struct Found {
    std::uint64_t survivors = 0;
    std::uint64_t of_the_dead = 0;
    std::uint64_t torn = 0;  // an add() that a crash interrupted
  };
  const Found& found() const { return found_; }

 private:
  // A block of record slots. It moves between the lists below, never in memory.
  struct Block {
    PoolBlock place;
    std::uint32_t used = 1;  // a bit for each slot; slot 0 is the header
    bool spilled = false;    // lies in the data area
    PoolBlock previous{};    // in the chain of spilled blocks; 0: the region's header
    PoolBlock next{};        // 0: the last one
  };
  using Blocks = std::list<Block>;

  using Slots = absl::InlinedVector<PinSlot, 4>;  // of one pin; nearly always one

  PoolBlock region_block(std::uint64_t index) const;
  void write_records(const PinRecord& pin, std::span<const PoolRange> blocks, const Slots& slots,
                     std::uint64_t sequence);
  // The continuation slots of a record, as far as the medium shows them.
  void append_continuations(PinSlot slot, Slots& slots) const;
  void clear_unused_slots(const Block& block);
  void stage_next(Transaction& tx, PoolBlock block, PoolBlock next) const;

  Status take_slots(std::size_t count, PinRoom room, Slots& slots) REQUIRES(mutex_);
  Result<PinSlot> take_slot(PinRoom room) REQUIRES(mutex_);
  void give_slots(const Slots& slots) REQUIRES(mutex_);
  void give_slot(PinSlot slot) REQUIRES(mutex_);
  Status grow(PinRoom room) REQUIRES(mutex_);
  Status grow_region() REQUIRES(mutex_);
  Status add_spill_block() REQUIRES(mutex_);
  void release_spill_block(Blocks::iterator block) REQUIRES(mutex_);
  void release_reserve() REQUIRES(mutex_);
  Blocks& list_of(const Block& block) REQUIRES(mutex_);
  void insert(const Block& block) REQUIRES(mutex_);
  void forget(PoolBlock place) REQUIRES(mutex_);
  void stage_region_header(Transaction& tx) const REQUIRES(mutex_);

  Medium& medium_;
  Journal& journal_;
  Allocator& allocator_;
  const pmem::Superblock super_;
  const bool read_only_;
  Found found_;

  // Taken before the allocator's and the journal's. Not held while records are written: their slots
  // belong to the thread that took them.
  mutable Mutex mutex_;
  Blocks open_region_ GUARDED_BY(mutex_);  // with a free slot, in the region
  Blocks open_spilled_
      GUARDED_BY(mutex_);  // with a free slot, in the data area; an empty one is at the end
  Blocks full_ GUARDED_BY(mutex_);
  absl::flat_hash_map<std::uint64_t, Blocks::iterator> by_place_ GUARDED_BY(mutex_);
  std::uint64_t ready_ GUARDED_BY(mutex_) = 0;    // blocks of the region that are initialised
  PoolBlock chain_ GUARDED_BY(mutex_);            // the first spilled block; 0: none
  std::uint64_t spilled_ GUARDED_BY(mutex_) = 0;  // how many
  std::uint64_t used_ GUARDED_BY(mutex_) = 0;     // slots
  bool reserve_ GUARDED_BY(mutex_) = false;       // whether a spilled block is empty
  std::uint64_t next_sequence_ GUARDED_BY(mutex_) = 1;
};

}  // namespace daxfs
