// A redo journal: makes a set of small writes to the medium atomic and durable.
//
// Several lanes, so that threads do not meet. Physical records as in PMFS (EuroSys '14), but redo.
//
//   lane:    {u32 crc, u32 bytes} {u64 sequence}  record, record, ...      `bytes` bytes of records
//   record:  {u64 pool offset} {u32 length, u32 0}  data, padded to 8 bytes
//
// The lane's first word (crc and bytes) decides alone: zero means empty. The CRC covers bytes,
// sequence and records, and is never 0.
//
// A commit: write header and records in one go, fence [1]; store the data in place, fence [2];
// store zero to the first word, fence [3].
//
// Why one fence commits. Before [1], the words of the lane may have reached the medium in any order
// and only in part. Nothing orders the header behind the records, and nothing has to: with any word
// missing the CRC does not match (an old CRC cannot lie there, because [3] zeroed it before the
// lane was handed out again), and the lane counts as never written. After [1] it matches, and the
// transaction will happen. In place nothing changes before [1], so both outcomes are whole.
//
// Why lanes can be replayed in any order. A committer holds the locks of the bytes it changes until
// commit() returns, and that is after [3]: two lanes that are both not empty never name the same
// byte. For the same reason nothing in place is newer than a lane that names it, so that
// replaying (and replaying again, after a crash during recovery) only repeats what was to happen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// The writes of one atomic change, collected in DRAM. Not thread-safe. Later writes win.
class Transaction {
 public:
  void write(PoolOffset to, std::span<const std::byte> data);
  template <class T>
  void write_object(PoolOffset to, const T& object) {
    static_assert(std::is_trivially_copyable_v<T>);
    write(to, std::as_bytes(std::span(&object, 1)));
  }
  bool empty() const { return log_.empty(); }
  // Journal bytes that the records take so far.
  std::size_t size() const { return log_.size(); }
  void clear() { log_.clear(); }

 private:
  friend class Journal;
  std::vector<std::byte> log_;  // records as they go to the lane
};

class Journal {
 public:
  struct Geometry {
    PoolOffset start;
    std::uint32_t lanes;
    std::uint32_t lane_bytes;
  };

  Journal(Medium& medium, Geometry geometry);

  // A transaction must not exceed this (callers split long work and record an intent).
  std::size_t capacity() const;

  // Durable, applied in place and visible through the medium on return. The caller must hold
  // the locks that keep others from committing to the same bytes. Blocks while all lanes are busy
  // (a commit takes microseconds). Thread-safe. A transaction over capacity(), or with a record
  // outside the pool, is a bug in the caller and aborts the process: it could be neither refused
  // nor split here.
  // EIO once the medium has failed, for this and all that follow: what the change names may be
  // lost, or happen at the next mount, and must not be acknowledged. Nothing is changed in place
  // any more then; a change that was being applied stays in its lane. Blocks that a lost change was
  // to take away stay in use: Allocator::free() sees to that.
  [[nodiscard]] Status commit(const Transaction& transaction);

  // Before anything else touches the pool: replays what was committed but not applied. Fails (and
  // changes nothing) if a committed record points outside the pool. Returns the replayed count.
  static Outcome<std::uint32_t> recover(Medium& medium, Geometry geometry);

  // How many transactions recover() would replay, or its Problem; changes nothing.
  static Outcome<std::uint32_t> pending(const Medium& medium, Geometry geometry);

  // For fsck: the lanes that make recover() fail, and a way to give one up (durable on return).
  static std::vector<std::uint32_t> unplayable(const Medium& medium, Geometry geometry);
  static void discard(Medium& medium, Geometry geometry, std::uint32_t lane);

  // Lanes that nobody has, and that are not empty all the same: the next mount would replay them.
  // Thread-safe.
  std::vector<std::uint32_t> left_over() const;

  // Makes all lanes empty (mkfs); durable after the caller's fence.
  static void format(Medium& medium, Geometry geometry);

 private:
  class LaneGuard;

  Medium& medium_;
  const Geometry geometry_;
  std::vector<std::vector<std::byte>> images_;  // one per lane, for its owner
  mutable Mutex mutex_;                         // an innermost lock
  Condition lane_freed_;
  std::vector<std::uint32_t> free_lanes_ GUARDED_BY(mutex_);
  std::uint64_t next_sequence_ GUARDED_BY(mutex_) =
      1;  // orders the lanes of one mount, for people who read a dump
};

}  // namespace daxfs
