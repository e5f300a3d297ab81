#include "blockmap/allocator.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>

#include "base/pieces.h"
#include "base/require.h"
#include "blockmap/format.h"

namespace daxfs {
namespace {

constexpr BlockCount kHuge{pmem::kHugeBlocks};

std::uint64_t chunk_of(PoolBlock block) { return block.value / pmem::kHugeBlocks; }
PoolBlock chunk_start(std::uint64_t chunk) { return PoolBlock(chunk * pmem::kHugeBlocks); }
PoolRange chunk_run(std::uint64_t first, std::uint64_t count) {
  return {chunk_start(first), BlockCount(count * pmem::kHugeBlocks)};
}
PoolRange between(PoolBlock begin, PoolBlock end) { return {begin, end - begin}; }
PoolBlock end_of_fragment(const std::pair<const PoolBlock, BlockCount>& fragment) {
  return fragment.first + fragment.second;
}
// As a number of a chunk.
std::uint64_t end_of_chunks(const std::pair<const std::uint64_t, std::uint64_t>& run) {
  return run.first + run.second;
}

// A range as chunks see it:  |..head###|########|########|###tail..|
struct Pieces {
  PoolRange head, tail;  // each within one chunk and not all of it; may be empty
  std::uint64_t first_chunk = 0, chunks = 0;
};

Pieces cut_at_chunks(PoolRange range) {
  const std::uint64_t first = (range.start.value + pmem::kHugeBlocks - 1) / pmem::kHugeBlocks;
  const std::uint64_t last = chunk_of(range.end());
  Pieces pieces;
  pieces.head = between(range.start, std::min(range.end(), chunk_start(first)));
  pieces.tail = between(std::max(pieces.head.end(), chunk_start(last)), range.end());
  if (first < last) {
    pieces.first_chunk = first;
    pieces.chunks = last - first;
  }
  return pieces;
}

bool wraps(PoolRange range) {
  // Rounding up to the next chunk must not wrap either.
  constexpr std::uint64_t kEnd = std::numeric_limits<std::uint64_t>::max() - pmem::kHugeBlocks;
  return range.start.value > kEnd || range.count.value > kEnd - range.start.value;
}

}  // namespace

// --- the two indexes, always changed together ---

void Allocator::link_fragment(PoolRange range) {
  if (range.empty()) return;
  const bool fresh = fragments_.emplace(range.start, range.count).second &&
                     fragments_by_length_.emplace(range.count, range.start).second;
  DAXFS_REQUIRE(fresh, "free blocks [{}, {}) are in an index already", range.start.value,
                range.end().value);
}

void Allocator::unlink_fragment(PoolRange range) {
  const std::size_t gone =
      fragments_.erase(range.start) + fragments_by_length_.erase({range.count, range.start});
  DAXFS_REQUIRE(gone == 2, "free blocks [{}, {}) are not in both indexes", range.start.value,
                range.end().value);
}

void Allocator::link_chunks(std::uint64_t first, std::uint64_t count) {
  if (count == 0) return;
  const bool fresh =
      huge_.emplace(first, count).second && huge_by_length_.emplace(count, first).second;
  DAXFS_REQUIRE(fresh, "{} free chunks from {} on are in an index already", count, first);
  huge_chunks_ += count;
}

void Allocator::unlink_chunks(std::uint64_t first, std::uint64_t count) {
  const std::size_t gone = huge_.erase(first) + huge_by_length_.erase({count, first});
  DAXFS_REQUIRE(gone == 2, "{} free chunks from {} on are not in both indexes", count, first);
  huge_chunks_ -= count;
}

// --- giving ---

bool Allocator::overlaps_free(PoolRange range) const {
  const auto fragment = first_ending_behind(fragments_, range.start, end_of_fragment);
  if (fragment != fragments_.end() && fragment->first < range.end()) return true;
  const auto chunks = first_ending_behind(huge_, chunk_of(range.start), end_of_chunks);
  return chunks != huge_.end() && chunk_start(chunks->first) < range.end();
}

Status Allocator::free(PoolRange range) {
  if (range.empty()) return {};
  if (wraps(range)) return fail(EUCLEAN);
  // A commit that was lost has said so, and its caller may go on to here all the same.
  if (medium_ != nullptr && medium_->failed()) return {};
  const MutexLock lock(mutex_);
  if (overlaps_free(range)) return fail(EUCLEAN);
  put(range);
  return {};
}

void Allocator::put(PoolRange range) {
  if (moved_ != nullptr) moved_->mark(range);
  const Pieces pieces = cut_at_chunks(range);
  if (!pieces.head.empty()) put_fragment(pieces.head);
  if (pieces.chunks != 0) put_chunks(pieces.first_chunk, pieces.chunks);
  if (!pieces.tail.empty()) put_fragment(pieces.tail);
  free_ += range.count;
}

void Allocator::put_fragment(PoolRange range) {
  const std::uint64_t chunk = chunk_of(range.start);
  auto next = fragments_.lower_bound(range.start);
  if (next != fragments_.begin()) {
    const auto [start, count] = *std::prev(next);
    if (start + count == range.start && start >= chunk_start(chunk)) {
      unlink_fragment({start, count});
      range = {start, count + range.count};
      next = fragments_.lower_bound(range.start);
    }
  }
  if (next != fragments_.end() && next->first == range.end() &&
      next->first < chunk_start(chunk + 1)) {
    const auto [start, count] = *next;
    unlink_fragment({start, count});
    range.count += count;
  }
  if (range.count == kHuge) {
    put_chunks(chunk, 1);
  } else {
    if (range.start == chunk_start(chunk) || range.end() == chunk_start(chunk + 1)) {
      none_across_ = kNoLength;
    }
    link_fragment(range);
  }
}

void Allocator::put_chunks(std::uint64_t first, std::uint64_t count) {
  none_across_ = kNoLength;
  auto next = huge_.lower_bound(first);
  if (next != huge_.begin()) {
    const auto [before, length] = *std::prev(next);
    if (before + length == first) {
      unlink_chunks(before, length);
      first = before;
      count += length;
      next = huge_.lower_bound(first);
    }
  }
  if (next != huge_.end() && next->first == first + count) {
    const auto [behind, length] = *next;
    unlink_chunks(behind, length);
    count += length;
  }
  link_chunks(first, count);
}

Status Allocator::rebuild(std::span<const PoolRange> free_runs) {
  PoolBlock end(0);
  for (const PoolRange& run : free_runs) {
    if (wraps(run) || run.start < end) return fail(EUCLEAN);
    end = run.end();
  }

  const MutexLock lock(mutex_);
  fragments_.clear();
  fragments_by_length_.clear();
  huge_.clear();
  huge_by_length_.clear();
  huge_chunks_ = 0;
  none_across_ = kNoLength;
  free_ = BlockCount(0);

  // Everything goes in at the end of its index; the lengths, fewer than 512 different ones, are
  // sorted by counting.
  std::array<std::vector<PoolBlock>, pmem::kHugeBlocks> by_length;
  const auto append_fragment = [&](PoolRange fragment) {
    mutex_.assert_held();
    if (fragment.empty()) return;
    fragments_.emplace_hint(fragments_.end(), fragment.start, fragment.count);
    by_length[fragment.count.value].push_back(fragment.start);
  };
  for (std::size_t i = 0; i < free_runs.size();) {
    PoolRange run = free_runs[i++];
    while (i < free_runs.size() && free_runs[i].start == run.end()) {
      run.count += free_runs[i++].count;
    }
    const Pieces pieces = cut_at_chunks(run);
    append_fragment(pieces.head);
    link_chunks(pieces.first_chunk, pieces.chunks);
    append_fragment(pieces.tail);
    free_ += run.count;
  }
  for (std::size_t length = 1; length < by_length.size(); ++length) {
    for (const PoolBlock start : by_length[length]) {
      fragments_by_length_.emplace_hint(fragments_by_length_.end(), BlockCount(length), start);
    }
  }
  return {};
}

// --- taking ---

// The free blocks from `at` on within one fragment or one run of chunks; empty if `at` is in use.
PoolRange Allocator::piece_from(PoolBlock at, BlockCount limit) const {
  PoolRange free{at, BlockCount(0)};
  const auto fragment = first_ending_behind(fragments_, at, end_of_fragment);
  if (fragment != fragments_.end() && fragment->first <= at) {
    free = between(at, end_of_fragment(*fragment));
  }
  const auto chunks = first_ending_behind(huge_, chunk_of(at), end_of_chunks);
  if (chunks != huge_.end() && chunk_start(chunks->first) <= at) {
    free = between(at, chunk_start(end_of_chunks(*chunks)));
  }
  free.count = std::min(free.count, limit);
  return free;
}

// The same across all borders (at most a fragment, a run of chunks and another fragment).
PoolRange Allocator::run_from(PoolBlock at, BlockCount limit) const {
  PoolRange run{at, BlockCount(0)};
  while (run.count < limit) {
    const PoolRange piece = piece_from(run.end(), limit - run.count);
    if (piece.empty()) break;
    run.count += piece.count;
  }
  return run;
}

// Takes a range out of the one fragment or run of chunks that contains it.
void Allocator::take(PoolRange range) {
  DAXFS_REQUIRE(free_ >= range.count, "blocks [{}, {}) are taken, and {} are free",
                range.start.value, range.end().value, free_.value);
  DAXFS_REQUIRE_EXPENSIVE(piece_from(range.start, range.count).count == range.count,
                          "blocks [{}, {}) are taken, and not all are free", range.start.value,
                          range.end().value);
  if (moved_ != nullptr) moved_->mark(range);
  free_ -= range.count;
  const auto fragment = first_ending_behind(fragments_, range.start, end_of_fragment);
  if (fragment != fragments_.end() && fragment->first <= range.start) {
    const PoolRange whole{fragment->first, fragment->second};
    DAXFS_REQUIRE(range.end() <= whole.end(),
                  "blocks [{}, {}) are taken, and {} ends the free ones", range.start.value,
                  range.end().value, whole.end().value);
    unlink_fragment(whole);
    link_fragment(between(whole.start, range.start));
    link_fragment(between(range.end(), whole.end()));
    return;
  }
  const auto run = first_ending_behind(huge_, chunk_of(range.start), end_of_chunks);
  DAXFS_REQUIRE(run != huge_.end() && run->first <= chunk_of(range.start),
                "blocks [{}, {}) are taken, and are not free", range.start.value,
                range.end().value);
  const auto [first, count] = *run;
  DAXFS_REQUIRE(range.end() <= chunk_run(first, count).end(),
                "blocks [{}, {}) are taken, and {} ends the free ones", range.start.value,
                range.end().value, chunk_run(first, count).end().value);
  const std::uint64_t broken_first = chunk_of(range.start);
  const std::uint64_t broken_end = chunk_of(range.end() + BlockCount(pmem::kHugeBlocks - 1));
  unlink_chunks(first, count);
  link_chunks(first, broken_first - first);
  link_chunks(broken_end, first + count - broken_end);
  link_fragment(between(chunk_start(broken_first), range.start));
  link_fragment(between(range.end(), chunk_start(broken_end)));
}

void Allocator::take_across(PoolRange range) {
  while (!range.empty()) {
    const PoolRange piece = piece_from(range.start, range.count);
    DAXFS_REQUIRE(!piece.empty(), "block {} is taken, and is not free", range.start.value);
    take(piece);
    range = between(piece.end(), range.end());
  }
}

// A large request follows its goal only if that gives it all, or fills the chunk up to its border
// (so that what follows is aligned): a few odd blocks are not worth losing an aligned chunk.
bool Allocator::goal_is_good(PoolBlock goal, BlockCount want) const {
  if (goal.value == 0) return false;
  const PoolRange run = run_from(goal, want);
  if (run.empty()) return false;
  return want < kHuge || run.count == want || chunk_of(run.end()) > chunk_of(goal);
}

// Long runs of chunks are worth more than short ones. Precondition: there is a free chunk.
PoolBlock Allocator::chunk_to_break(PoolBlock near) const {
  if (near == chunk_start(chunk_of(near)) && !piece_from(near, kHuge).empty() &&
      piece_from(near, kHuge).count == kHuge) {
    return near;
  }
  DAXFS_REQUIRE(!huge_by_length_.empty(), "a chunk is broken, and none is free");
  return chunk_start(huge_by_length_.begin()->second);
}

Status Allocator::allocate(BlockCount want, PoolBlock goal, std::vector<PoolRange>& out) {
  const MutexLock lock(mutex_);
  if (want > free_) return fail(ENOSPC);

  const std::size_t before = out.size();
  PoolBlock last_end(0);
  const auto give = [&](PoolRange range) {
    mutex_.assert_held();
    take(range);
    want -= range.count;
    last_end = range.end();
    if (out.size() > before && out.back().end() == range.start &&
        out.back().count + range.count <= kMaxRun) {
      out.back().count += range.count;
    } else {
      out.push_back(range);
    }
  };

  if (goal_is_good(goal, want)) {
    for (PoolRange piece = piece_from(goal, std::min(want, kMaxRun)); !piece.empty();
         piece = piece_from(last_end, std::min(want, kMaxRun))) {
      give(piece);
    }
  }
  while (want >= kHuge && !huge_.empty()) {
    const std::uint64_t chunks = std::min(want, kMaxRun).value / pmem::kHugeBlocks;
    auto fit = huge_by_length_.lower_bound({chunks, 0});
    if (fit == huge_by_length_.end()) --fit;
    give(chunk_run(fit->second, std::min(chunks, fit->first)));
  }
  while (want.value != 0) {
    const auto fit = fragments_by_length_.lower_bound({want, PoolBlock(0)});
    if (fit != fragments_by_length_.end()) {
      give({fit->second, want});
    } else if (!huge_.empty()) {
      give({chunk_to_break(last_end), want});
    } else {
      DAXFS_REQUIRE(!fragments_by_length_.empty(), "{} blocks are free, and none is in an index",
                    free_.value);
      const auto [count, start] = *fragments_by_length_.rbegin();
      give({start, count});
    }
  }
  return {};
}

// The first run of `want` blocks that crosses a border of chunks in [from, end). Precondition: no
// fragment is that long. So what lies between two borders need not be looked at, however many
// fragments there are (# is free):
//
//   |..#..##.#|..#..#.##|####.#..#|     a run begins with a fragment that ends at a border,
//                     ^^ ^^^^           or with a run of chunks
std::optional<PoolRange> Allocator::find_across(BlockCount want, PoolBlock from,
                                                PoolBlock end) const {
  DAXFS_REQUIRE_EXPENSIVE(
      fragments_by_length_.empty() || fragments_by_length_.rbegin()->first < want,
      "a fragment has the {} blocks that are looked for across borders", want.value);
  for (PoolBlock border = from; border < end;) {
    const auto behind = fragments_.lower_bound(border);
    auto chunks = huge_.lower_bound(chunk_of(border));
    const bool chunk_here = chunks != huge_.end() && chunk_start(chunks->first) == border;
    PoolBlock start = border;
    if (behind != fragments_.begin()) {
      const auto [before, count] = *std::prev(behind);
      if (before + count == border) start = before;
    }
    const bool fragment_here = behind != fragments_.end() && behind->first == border;
    if (chunk_here || (fragment_here && start < border)) {
      const PoolRange run = run_from(start, want);
      if (run.count == want) return run;
    }
    // On to the next border that has a free block before it, or a chunk behind it.
    border = end;
    if (behind != fragments_.end()) {
      border = std::min(border, chunk_start(chunk_of(behind->first) + 1));
    }
    if (chunk_here) ++chunks;
    if (chunks != huge_.end()) border = std::min(border, chunk_start(chunks->first));
  }
  return std::nullopt;
}

Result<PoolRange> Allocator::allocate_run(BlockCount want) {
  const MutexLock lock(mutex_);
  if (want.value == 0 || want > free_) return fail(ENOSPC);

  if (const auto fit = fragments_by_length_.lower_bound({want, PoolBlock(0)});
      fit != fragments_by_length_.end()) {
    const PoolRange run{fit->second, want};
    take(run);
    return run;
  }
  const std::uint64_t chunks = (want.value + pmem::kHugeBlocks - 1) / pmem::kHugeBlocks;
  if (const auto fit = huge_by_length_.lower_bound({chunks, 0}); fit != huge_by_length_.end()) {
    const PoolRange run{chunk_start(fit->second), want};
    take(run);
    return run;
  }

  // Only a run across chunk borders can still do. It consists of at most two fragments and the
  // chunks between them, which rules most failures out without a walk.
  const std::uint64_t longest_fragment =
      fragments_by_length_.empty() ? 0 : fragments_by_length_.rbegin()->first.value;
  const std::uint64_t most_chunks = huge_by_length_.empty() ? 0 : huge_by_length_.rbegin()->first;
  if (2 * longest_fragment + most_chunks * pmem::kHugeBlocks < want.value) return fail(ENOSPC);
  // Somebody may try again and again, and everybody waits meanwhile: no search is made twice.
  if (want >= none_across_) return fail(ENOSPC);
  constexpr PoolBlock kEnd(std::numeric_limits<std::uint64_t>::max());
  auto run = find_across(want, search_from_, kEnd);
  if (!run) run = find_across(want, PoolBlock(0), search_from_);
  if (!run) {
    none_across_ = want;
    return fail(ENOSPC);
  }
  search_from_ = chunk_start(chunk_of(run->start));
  take_across(*run);
  return *run;
}

// --- questions ---

BlockCount Allocator::free_blocks() const {
  const MutexLock lock(mutex_);
  return free_;
}

Allocator::Shape Allocator::shape() const {
  const MutexLock lock(mutex_);
  return {.fragments = fragments_.size(), .huge_chunks = huge_chunks_};
}

std::vector<PoolRange> Allocator::snapshot() const {
  const MutexLock lock(mutex_);
  return runs();
}

std::vector<PoolRange> Allocator::runs() const {
  std::vector<PoolRange> out;
  const auto append = [&out](PoolRange range) {
    if (!out.empty() && out.back().end() == range.start) {
      out.back().count += range.count;
    } else {
      out.push_back(range);
    }
  };
  auto huge = huge_.begin();
  for (const auto& [start, count] : fragments_) {
    for (; huge != huge_.end() && chunk_start(huge->first) < start; ++huge) {
      append(chunk_run(huge->first, huge->second));
    }
    append({start, count});
  }
  for (; huge != huge_.end(); ++huge) append(chunk_run(huge->first, huge->second));
  return out;
}

}  // namespace daxfs
