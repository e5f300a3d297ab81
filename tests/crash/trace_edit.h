// Finding and rebuilding the journal's commits in a trace, for planted bugs.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "blockmap/format.h"
#include "tests/crash/trace.h"

namespace daxfs::testing {

// One write of a transaction: where, and what, padded to words.
struct JournalRecord {
  std::uint64_t offset;
  std::uint32_t length;
  std::vector<std::uint64_t> words;
};

// The calls of one commit, in order: lane, fence, applied..., fence, emptied, fence.
struct Commit {
  Event lane;
  std::vector<Event> applied;
  Event emptied;
  Event fence;

  std::vector<JournalRecord> records() const;
  // Replaces the lane's records; header and checksum are as the journal would write them.
  void set_records(const std::vector<JournalRecord>& records);
  // All calls, as the journal makes them.
  void append_to(Trace& trace) const;
};

// Replaces every commit by what `edit` appends in its place.
void edit_commits(Trace& trace, const pmem::Superblock& super,
                  const std::function<void(Commit& commit, Trace& out)>& edit);

// Drops events for which `drop(before, event)` says so; `before` is the last change before it that
// stays (null: none).
void drop_events(Trace& trace,
                 const std::function<bool(const Event* before, const Event& event)>& drop);

}  // namespace daxfs::testing
