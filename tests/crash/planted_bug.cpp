#include "tests/crash/planted_bug.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "base/crc32c.h"
#include "tests/crash/objects.h"
#include "tests/crash/trace_edit.h"

namespace daxfs::testing {
namespace {

using pmem::Superblock;

bool is_fence(const Event& event) { return event.kind == Event::Kind::fence; }
bool is_data(const Event& event, const Superblock& super) {
  return event.kind == Event::Kind::nontemporal && in_data(super, event.offset);
}
bool is_extent_block(const Event& event) {
  return event.words.size() == kBlockSize / 8 && event.words[0] >> 32 == pmem::ExtentBlock::kMagic;
}
bool is_attribute_run(const Event& event) {
  return event.words.size() >= 4 && event.offset % kBlockSize == 0 &&
         event.words[0] >> 32 == pmem::XattrHeader::kMagic;
}
bool is_inode_record(const JournalRecord& record, const Superblock& super) {
  return in_inodes(super, record.offset) && record.offset % pmem::kInodeBytes == 0;
}

// --- flushes and fences ---

void no_fence_behind_lane(Trace& trace, const Superblock& super) {
  edit_commits(trace, super, [](Commit& commit, Trace& out) {
    const std::size_t begin = out.size();
    commit.append_to(out);
    out.erase(out.begin() + static_cast<std::ptrdiff_t>(begin + 1));
  });
}

void no_fence_behind_applying(Trace& trace, const Superblock& super) {
  edit_commits(trace, super, [](Commit& commit, Trace& out) {
    const std::size_t begin = out.size();
    commit.append_to(out);
    out.erase(out.begin() + static_cast<std::ptrdiff_t>(begin + 2 + commit.applied.size()));
  });
}

void lane_emptied_first(Trace& trace, const Superblock& super) {
  edit_commits(trace, super, [](Commit& commit, Trace& out) {
    out.push_back(commit.lane);
    out.push_back(commit.fence);
    out.push_back(commit.emptied);
    out.push_back(commit.fence);
    out.insert(out.end(), commit.applied.begin(), commit.applied.end());
    out.push_back(commit.fence);
  });
}

void inodes_not_flushed(Trace& trace, const Superblock& super) {
  for (Event& event : trace) {
    if (event.kind == Event::Kind::store && in_inodes(super, event.offset)) event.flushed = false;
  }
}

void entries_not_flushed(Trace& trace, const Superblock& super) {
  for (Event& event : trace) {
    if (event.kind == Event::Kind::store && in_data(super, event.offset)) event.flushed = false;
  }
}

void no_fence_behind_data(Trace& trace, const Superblock& super) {
  drop_events(trace, [&](const Event* before, const Event& event) {
    return is_fence(event) && before != nullptr && is_data(*before, super) &&
           !is_extent_block(*before) && !is_attribute_run(*before);
  });
}

void no_fence_behind_attributes(Trace& trace, const Superblock& super) {
  drop_events(trace, [&](const Event* before, const Event& event) {
    return is_fence(event) && before != nullptr && is_data(*before, super) &&
           is_attribute_run(*before);
  });
}

void no_fence_behind_extent_block(Trace& trace, const Superblock& super) {
  drop_events(trace, [&](const Event* before, const Event& event) {
    return is_fence(event) && before != nullptr && is_data(*before, super) &&
           is_extent_block(*before);
  });
}

// A write in place that returns without having waited for its data.
void no_fence_before_return(Trace& trace, const Superblock& super) {
  Trace out;
  for (const Event& event : trace) {
    if (event.kind == Event::Kind::end && out.size() >= 2 && is_fence(out.back())) {
      const Event& last = out[out.size() - 2];
      if (last.changes() && !in_journal(super, last.offset)) out.pop_back();
    }
    out.push_back(event);
  }
  trace = std::move(out);
}

// --- order ---

// What was written since the last commit comes after the next one.
void size_before_data(Trace& trace, const Superblock& super) {
  Trace out;
  std::vector<Event> late;
  const auto settle = [&] {
    if (late.empty()) return;
    out.insert(out.end(), late.begin(), late.end());
    out.push_back({.kind = Event::Kind::fence, .words = {}});
    late.clear();
  };
  edit_commits(trace, super, [](Commit& commit, Trace& to) {
    commit.append_to(to);
    to.back().word_atomic = false;  // marks the commit's last fence
  });
  for (const Event& event : trace) {
    if (event.kind == Event::Kind::end) settle();
    if (is_data(event, super)) {
      late.push_back(event);
      continue;
    }
    out.push_back(event);
    if (is_fence(event) && !event.word_atomic) {
      out.back().word_atomic = true;
      settle();
    }
  }
  trace = std::move(out);
}

// The blocks that an operation gives up are free before it has committed: the next one's data comes
// too early.
void freed_before_commit(Trace& trace, const Superblock& super) {
  Trace out;
  std::size_t begin_of_last = 0;
  std::size_t begin = 0;
  for (const Event& event : trace) {
    if (event.kind == Event::Kind::begin) {
      begin_of_last = begin;
      begin = out.size();
    }
    if (is_data(event, super) && begin_of_last < begin) {
      const auto place = out.begin() + static_cast<std::ptrdiff_t>(begin_of_last + 1);
      out.insert(place, event);
      ++begin;
      continue;
    }
    out.push_back(event);
  }
  trace = std::move(out);
}

// --- transactions ---

void no_journal(Trace& trace, const Superblock& super) {
  drop_events(trace, [&](const Event*, const Event& event) {
    return event.changes() && in_journal(super, event.offset);
  });
}

void two_transactions(Trace& trace, const Superblock& super) {
  edit_commits(trace, super, [](Commit& commit, Trace& out) {
    const std::vector<JournalRecord> records = commit.records();
    if (records.size() < 2 || records.size() != commit.applied.size()) {
      return commit.append_to(out);
    }
    Commit first = commit;
    Commit second = commit;
    const auto half = static_cast<std::ptrdiff_t>(records.size() / 2);
    first.set_records({records.begin(), records.begin() + half});
    first.applied.erase(first.applied.begin() + half, first.applied.end());
    second.set_records({records.begin() + half, records.end()});
    second.applied.erase(second.applied.begin(), second.applied.begin() + half);
    first.append_to(out);
    second.append_to(out);
  });
}

// The last of several inode records (a file's, beside its directory's) is not in the transaction.
void link_count_outside(Trace& trace, const Superblock& super) {
  edit_commits(trace, super, [&](Commit& commit, Trace& out) {
    std::vector<JournalRecord> records = commit.records();
    const auto inodes = std::ranges::count_if(
        records, [&](const JournalRecord& record) { return is_inode_record(record, super); });
    if (inodes > 1) {
      const auto last = std::ranges::find_if(
          records.rbegin(), records.rend(),
          [&](const JournalRecord& record) { return is_inode_record(record, super); });
      records.erase(std::next(last).base());
      commit.set_records(records);
    }
    commit.append_to(out);
  });
}

// Long detaches do not say what they are about to do.
void no_detach_intent(Trace& trace, const Superblock& super) {
  const auto clear = [](std::vector<std::uint64_t>& words) {
    constexpr std::size_t kRecordWords = sizeof(pmem::InodeRecord) / 8;
    if (words.size() < kRecordWords) return;
    pmem::InodeRecord record;
    std::memcpy(&record, words.data(), sizeof record);
    if (record.detach_end == 0) return;
    record.detach_begin = record.detach_end = 0;
    seal(record, pmem::kInodeCrcBytes);
    std::memcpy(words.data(), &record, sizeof record);
  };
  edit_commits(trace, super, [&](Commit& commit, Trace& out) {
    std::vector<JournalRecord> records = commit.records();
    for (JournalRecord& record : records) {
      if (is_inode_record(record, super)) clear(record.words);
    }
    commit.set_records(records);
    for (Event& event : commit.applied) {
      if (in_inodes(super, event.offset) && event.offset % pmem::kInodeBytes == 0) {
        clear(event.words);
      }
    }
    commit.append_to(out);
  });
}

// --- content ---

void attributes_in_place(Trace& trace, const Superblock& super) {
  std::map<std::uint64_t, std::uint64_t> runs;  // inode -> where its attributes were
  Trace out;
  for (const Event& event : trace) {
    if (is_data(event, super) && is_attribute_run(event)) {
      const std::uint64_t inode = event.words[1];
      if (const auto old = runs.find(inode); old != runs.end()) {
        out.push_back(event);
        out.back().offset = old->second;
        out.push_back({.kind = Event::Kind::fence, .words = {}});
      }
      runs[inode] = event.offset;
    }
    out.push_back(event);
  }
  trace = std::move(out);
}

void edges_not_zeroed(Trace& trace, const Superblock& super) {
  drop_events(trace, [&](const Event*, const Event& event) {
    const auto zeroes = std::ranges::count(event.words, 0u);
    return is_data(event, super) && !event.words.empty() &&
           static_cast<std::size_t>(zeroes) + 2 > event.words.size();
  });
}

void times_torn(Trace& trace, const Superblock& super) {
  for (Event& event : trace) {
    if (in_inodes(super, event.offset) && event.words.size() == 1) event.word_atomic = false;
  }
}

// --- recovery, reading, running ---

void lanes_emptied_unfenced(Trace& trace, const Superblock&) {
  const auto fence = std::ranges::find_if(trace, is_fence);
  if (fence != trace.end()) trace.erase(fence);
}

void lane_not_verified(ReversibleMedium& image, const Superblock& super) {
  for (std::uint32_t lane = 0; lane < super.journal_lanes; ++lane) {
    const PoolOffset start(super.journal_start * kBlockSize +
                           std::uint64_t{lane} * super.lane_bytes);
    auto header = image.load<std::array<std::uint64_t, 2>>(start);
    const std::uint64_t bytes = header[0] >> 32;
    if (header[0] == 0 || bytes == 0 || bytes > super.lane_bytes - sizeof header) continue;
    header[0] = bytes << 32;
    const std::span records(image.at(start) + sizeof header, bytes);
    header[0] |= sealed_crc(records, crc32c(std::as_bytes(std::span(header))));
    image.store_u64(start, header[0]);
  }
}

void limbo_lost(Filesystem& fs, std::span<const PoolRange>) {
  for (const Gate::LimboInfo& piece : fs.gate().limbo_from(PoolBlock(0), 64)) {
    static_cast<void>(fs.mount().volume.allocator().free(piece.range));
  }
}

void block_leaked(Filesystem& fs, std::span<const PoolRange>) {
  static_cast<void>(fs.mount().volume.allocator().allocate_run(BlockCount(1)));
}

}  // namespace

std::span<const PlantedBug> planted_bugs() {
  static const std::vector<PlantedBug> kAll = {
      {.name = "lane-unfenced",
       .what = "missing fence: changes are applied before the lane is durable",
       .program = no_fence_behind_lane},
      {.name = "apply-unfenced",
       .what = "missing fence: the lane is emptied before what it held is durable in place",
       .program = no_fence_behind_applying},
      {.name = "lane-emptied-first",
       .what = "wrong order: the lane is emptied, then its changes are applied",
       .program = lane_emptied_first},
      {.name = "inode-unflushed",
       .what = "missing flush: inode records are stored, never flushed",
       .program = inodes_not_flushed},
      {.name = "entry-unflushed",
       .what = "missing flush: directory entries and extent records are stored, never flushed",
       .program = entries_not_flushed},
      {.name = "data-unfenced",
       .what = "missing fence: a commit shows data that is not durable yet",
       .program = no_fence_behind_data},
      {.name = "attributes-unfenced",
       .what = "missing fence: a commit points to attributes that are not durable yet",
       .program = no_fence_behind_attributes},
      {.name = "extent-block-unfenced",
       .what = "missing fence: a commit points to an extent block that is not durable yet",
       .program = no_fence_behind_extent_block},
      {.name = "return-unfenced",
       .what = "missing fence: a write in place returns before its data is durable",
       .program = no_fence_before_return},
      {.name = "size-before-data",
       .what = "wrong order: size and extents are committed, then the data is written",
       .program = size_before_data},
      {.name = "freed-before-commit",
       .what = "freed blocks are reused before the change that freed them is durable",
       .program = freed_before_commit},
      {.name = "no-journal",
       .what = "torn pointers: records are changed in place without a journal",
       .program = no_journal},
      {.name = "two-transactions",
       .what = "an operation commits in two transactions instead of one",
       .program = two_transactions},
      {.name = "link-count-outside",
       .what = "a link count is changed outside of the transaction that changes the name",
       .program = link_count_outside},
      {.name = "no-detach-intent",
       .what = "a detach of several transactions does not record what it is about to do",
       .program = no_detach_intent},
      {.name = "attributes-in-place",
       .what = "the old run of attributes is overwritten in place",
       .program = attributes_in_place},
      {.name = "edges-not-zeroed",
       .what = "the rest of a new block is not zeroed, and shows what was there",
       .program = edges_not_zeroed},
      {.name = "torn-time", .what = "a time is stored in two halves", .program = times_torn},
      {.name = "recovery-unfenced",
       .what = "recovery empties the lanes before what they held is durable in place",
       .recovery = lanes_emptied_unfenced},
      {.name = "lane-unverified",
       .what = "the checksum of a journal lane is not verified",
       .reader = lane_not_verified},
      {.name = "limbo-lost",
       .what = "blocks that were detached while pinned become free at once",
       .running = limbo_lost},
      {.name = "block-leaked",
       .what = "a block is taken and belongs to nobody",
       .running = block_leaked},
  };
  return kAll;
}

const PlantedBug* find_planted_bug(const std::string& name) {
  for (const PlantedBug& bug : planted_bugs()) {
    if (bug.name == name) return &bug;
  }
  return nullptr;
}

}  // namespace daxfs::testing
