// Blocks that several claim. Who keeps them, in this order:
//
//   1. inode chunks and their index, then blocks of pin records
//   2. extent blocks, attribute runs and directory blocks, which prove whose they are
//   3. file data, which proves nothing: the inode that shares the fewest blocks, since one bad
//      record can claim what many own; of equals that with the lower number
//   4. blocks that are set aside for a file, but were never written
//
// Another file that claims the block gets a copy, as long as there is space: one of the two has
// lost its own data, and nobody can tell which. What is proven metadata is no file's data: there
// the other gets a hole.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <compare>
#include <vector>

#include "base/crc32c.h"
#include "blockmap/block_bitmap.h"
#include "blockmap/extent_record.h"
#include "blockmap/fsck/claims.h"
#include "blockmap/fsck/inspect_directory.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/xattr.h"

namespace daxfs::fsck {
namespace {

// Copied in one transaction: each block may need an extent of its own.
constexpr std::uint64_t kCopyBlocks = 64;
// Left for extent blocks and for lost+found.
constexpr std::uint64_t kSpareBlocks = 16;

class SharedBlocks {
 public:
  explicit SharedBlocks(Context& context)
      : context_(context),
        medium_(context.medium),
        proven_(context.medium.blocks()),
        owned_(context.medium.blocks()),
        kept_(context.medium.blocks()) {}

  void run() {
    if (!anything_shared() || context_.cancelled()) return;
    for (const PoolRange& run : context_.index_runs) take_proven(run);
    for (const PoolRange& run : context_.pins.records) take_proven(run);
    each([&](Claimant& c) { settle_chain(c); });
    each([&](Claimant& c) { settle_xattrs(c); });
    each([&](Claimant& c) { settle_directory(c); });
    for (const bool unwritten : {false, true}) {
      each([&](Claimant& c) { settle_data(c, unwritten); });
    }
  }

 private:
  struct Sharer {
    std::uint64_t blocks;  // that others claim, too
    InodeNumber inode;
    auto operator<=>(const Sharer&) const = default;
  };

  // An owner that shares nothing meets nobody.
  template <class Visit>
  void each(const Visit& visit) {
    for (std::size_t i = 0; i < sharers_.size() && !context_.cancelled(); ++i) {
      context_.tell("shared blocks", i, sharers_.size());
      if (auto claimant = load_claimant(context_, sharers_[i].inode)) visit(*claimant);
    }
  }

  // Marks all that is claimed; what neither is nor kept by a pin is free.
  bool anything_shared() {
    BlockBitmap claimed(medium_.blocks());
    BlockBitmap twice(medium_.blocks());
    bool shared = false;
    for (const PoolRange& run : context_.pins.kept) kept_.mark(run);
    for (const PoolRange& run : context_.pins.records) claimed.mark(run);
    for_each_claim(context_, "blocks", [&](PoolRange run, const Claimant* by) {
      if (is_in(claimed, run)) {
        shared = true;
        for_each_marked(claimed, run, [&](PoolRange part) { twice.mark(part); });
      }
      claimed.mark(run);
      if (is_pinned_directory(by, run)) shared = true;
    });
    if (!shared || context_.cancelled()) return false;
    find_sharers(twice);
    for (const PoolRange& run : context_.pins.kept) claimed.mark(run);
    std::vector<PoolRange> free_runs;
    claimed.for_each_clear(context_.area(), [&](PoolRange run) { free_runs.push_back(run); });
    return context_.allocator->rebuild(free_runs).has_value();
  }

  void find_sharers(const BlockBitmap& twice) {
    for_each_claim(context_, "shared blocks", [&](PoolRange run, const Claimant* by) {
      if (by == nullptr) return;
      std::uint64_t blocks = 0;
      for_each_marked(twice, run, [&](PoolRange part) { blocks += part.count.value; });
      if (blocks == 0 && !is_pinned_directory(by, run)) return;
      if (sharers_.empty() || sharers_.back().inode != by->inode)
        sharers_.push_back({0, by->inode});
      sharers_.back().blocks += blocks;
    });
    std::ranges::sort(sharers_);
  }

  bool is_pinned_directory(const Claimant* by, PoolRange run) const {
    return by != nullptr && S_ISDIR(by->record.mode) && is_in(kept_, run);
  }

  template <class Visit>
  static void for_each_marked(const BlockBitmap& marks, PoolRange run, const Visit& visit) {
    const std::uint64_t end = run.end().value;
    for (std::uint64_t at = marks.find(run.start.value, end, true); at < end;) {
      const std::uint64_t stop = marks.find(at, end, false);
      visit(PoolRange{PoolBlock(at), BlockCount(stop - at)});
      at = marks.find(stop, end, true);
    }
  }

  bool found(const Claimant& c, Severity severity, std::string text) {
    return context_.accept(Code::shared_blocks, severity, name_of(c.inode), std::move(text));
  }

  void commit_record(Claimant& c) {
    Transaction tx;
    c.record.blocks = c.map.mapped().value;
    context_.inodes->stage(tx, c.inode, c.record);
    context_.commit(tx);
  }

  static bool is_in(const BlockBitmap& marks, PoolRange run) {
    return marks.find(run.start.value, run.end().value, true) != run.end().value;
  }
  bool is_taken(PoolRange run) const { return is_in(owned_, run); }
  void take_proven(PoolRange run) {
    proven_.mark(run);
    owned_.mark(run);
  }

  void settle_chain(Claimant& c) {
    const std::vector<PoolBlock> chain(c.map.chain().rbegin(), c.map.chain().rend());
    for (std::size_t i = 0; i < chain.size(); ++i) {
      const PoolRange run{chain[i], BlockCount(1)};
      if (!is_taken(run)) {
        take_proven(run);
        continue;
      }
      if (!found(c, Severity::loss,
                 fmt::format("its extent block {} lies where other metadata is; the chain is cut "
                             "off there, what followed reads as zeroes",
                             chain[i].value))) {
        return;
      }
      if (i == 0) {
        c.record.extent_block = 0;
        commit_record(c);
      } else {
        auto before = medium_.load<pmem::ExtentBlock>(offset_of(chain[i - 1]));
        before.next = 0;
        constexpr std::size_t kHeader = offsetof(pmem::ExtentBlock, slots);
        seal(before, kHeader);
        Transaction tx;
        tx.write(offset_of(chain[i - 1]), std::as_bytes(std::span(&before, 1)).first(kHeader));
        context_.commit(tx);
      }
      return;
    }
  }

  void settle_xattrs(Claimant& c) {
    const PoolRange run = xattr_run(c.record);
    if (run.empty()) return;
    if (!is_taken(run)) return take_proven(run);
    const auto attributes = load_xattrs(medium_, c.inode, c.record, context_.area());
    if (!attributes) return;
    // Whether there is room for a copy decides what is lost: so it comes first, and is not ours to
    // keep before it is accepted.
    pmem::InodeRecord moved = c.record;
    std::vector<PoolRange> released;
    const bool copied =
        replace_xattrs(medium_, *context_.allocator, c.inode, moved, *attributes, released)
            .has_value();
    if (!copied) {
      moved.xattr_block = 0;
      moved.xattr_bytes = 0;
    }
    const PoolRange copy = xattr_run(moved);
    const bool accepted =
        copied ? found(c, Severity::repairable,
                       "its extended attributes lie where other metadata is; copied elsewhere")
               : found(c, Severity::loss,
                       "its extended attributes lie where other metadata is, and there is no "
                       "room for a copy; removed");
    if (!accepted) {
      // Just allocated, so it cannot overlap free space.
      if (!copy.empty()) static_cast<void>(context_.allocator->free(copy));
      return;
    }
    c.record = moved;
    commit_record(c);
    if (!copy.empty()) take_proven(copy);
  }

  // The blocks of a directory that hold an entry of it. Others may be anybody's; what a process has
  // pinned is no directory's, and must not be written to.
  void settle_directory(Claimant& c) {
    if (!S_ISDIR(c.record.mode)) return;
    for_each_block(c, [&](const Extent& block) {
      const PoolRange run{block.pool, block.count};
      if (!holds_sound_entry(medium_, c.inode, block.pool)) {
        if (is_in(kept_, run)) give_up(c, block);
        return;
      }
      if (is_taken(run)) {
        give_up(c, block);
      } else {
        take_proven(run);
      }
    });
  }

  // What was written before what is only set aside: that is given up without a loss.
  void settle_data(Claimant& c, bool unwritten) {
    if (!S_ISDIR(c.record.mode)) return settle_runs(c, unwritten);
    if (unwritten) return;
    for_each_block(c, [&](const Extent& block) {
      if (holds_sound_entry(medium_, c.inode, block.pool)) return;
      if (is_taken({block.pool, block.count})) {
        give_up(c, block);
      } else {
        owned_.mark({block.pool, block.count});
      }
    });
  }

  std::vector<Extent> extents_of(const Claimant& c) const {
    std::vector<Extent> extents;
    c.map.for_each(kWholeFile, [&](const Extent& extent) { extents.push_back(extent); });
    return extents;
  }

  // The map may be changed meanwhile.
  template <class Visit>
  void for_each_block(Claimant& c, const Visit& visit) {
    for (const Extent& extent : extents_of(c)) {
      for (std::uint64_t i = 0; i < extent.count.value; ++i) visit(part_of(extent, i, 1));
    }
  }

  static Extent part_of(const Extent& extent, std::uint64_t from, std::uint64_t count) {
    return {extent.file + BlockCount(from), extent.pool + BlockCount(from), BlockCount(count),
            extent.unwritten};
  }

  void settle_runs(Claimant& c, bool unwritten) {
    for (const Extent& extent : extents_of(c)) {
      if (extent.unwritten != unwritten) continue;
      const std::uint64_t start = extent.pool.value;
      const std::uint64_t end = start + extent.count.value;
      for (std::uint64_t at = start; at < end;) {
        const std::uint64_t taken = owned_.find(at, end, true);
        if (taken > at) owned_.mark({PoolBlock(at), BlockCount(taken - at)});
        if (taken == end) break;
        at = taken;
        // Metadata and file data are given up in different ways.
        const bool proven = proven_.find(at, at + 1, true) == at;
        const std::uint64_t stop =
            std::min(owned_.find(at, end, false), proven_.find(at, end, !proven));
        const Extent part = part_of(extent, at - start, stop - at);
        if (proven || part.unwritten) {
          give_up(c, part);
        } else {
          copy(c, part);
        }
        at = stop;
      }
    }
  }

  static std::string describe(const Extent& part) {
    return fmt::format("blocks {} to {} (its block {} and on)", part.pool.value,
                       part.pool.value + part.count.value - 1, part.file.value);
  }

  // The part becomes a hole.
  void give_up(Claimant& c, const Extent& part) {
    // Nothing is lost with blocks that read as zeroes anyway.
    const Severity severity = part.unwritten ? Severity::repairable : Severity::loss;
    if (found(c, severity,
              fmt::format("{} belong to something else; given up, they read as zeroes",
                          describe(part)))) {
      unmap(c, part);
    }
  }

  void unmap(Claimant& c, const Extent& part) {
    FileRange range{part.file, part.count};
    Transaction tx;
    if (!c.map.reserve(c.record, 1)) {
      // A hole in the middle needs a record more than there is space for: the rest goes, too.
      if (const auto extent = c.map.first_from(part.file)) range.count = extent->end() - part.file;
    }
    std::vector<PoolRange> removed;
    for (FileBlock at = range.start; at < range.end();) {
      at = c.map.remove(tx, {at, range.end() - at}, 1, removed);
      c.record.blocks = c.map.mapped().value;
      context_.inodes->stage(tx, c.inode, c.record);
      context_.commit(tx);
      tx.clear();
    }
  }

  void copy(Claimant& c, const Extent& part) {
    const bool possible =
        context_.allocator->free_blocks().value >= part.count.value + kSpareBlocks;
    if (!possible) return give_up(c, part);
    if (!found(c, Severity::loss,
               fmt::format("{} are another file's as well; it gets a copy: one of the two has lost "
                           "its own data there",
                           describe(part)))) {
      return;
    }
    for (std::uint64_t done = 0; done < part.count.value;) {
      const std::uint64_t count = std::min(kCopyBlocks, part.count.value - done);
      const Extent piece = part_of(part, done, count);
      if (!copy_piece(c, piece)) unmap(c, piece);
      done += count;
    }
  }

  bool copy_piece(Claimant& c, const Extent& piece) {
    std::vector<PoolRange> runs;
    if (!context_.allocator->allocate(piece.count, PoolBlock(0), runs)) return false;
    Transaction tx;
    if (!c.map.reserve(c.record, runs.size() + 1)) {
      for (const PoolRange& run : runs) static_cast<void>(context_.allocator->free(run));
      return false;
    }
    PoolBlock from = piece.pool;
    for (const PoolRange& run : runs) {
      medium_.write(offset_of(run.start), {medium_.at(from), bytes(run.count).value});
      from += run.count;
    }
    medium_.fence();
    std::vector<PoolRange> removed;
    c.map.remove(tx, {piece.file, piece.count}, 2, removed);
    FileBlock to = piece.file;
    for (const PoolRange& run : runs) {
      c.map.insert(tx, {to, run.start, run.count, false});
      owned_.mark(run);
      to += run.count;
    }
    c.record.blocks = c.map.mapped().value;
    context_.inodes->stage(tx, c.inode, c.record);
    context_.commit(tx);
    return true;
  }

  Context& context_;
  Medium& medium_;
  BlockBitmap proven_;           // metadata that proves whose it is
  BlockBitmap owned_;            // has been given to somebody
  BlockBitmap kept_;             // by pins of living processes
  std::vector<Sharer> sharers_;  // and directories that claim what is kept
};

}  // namespace

void check_shared_blocks(Context& context) { SharedBlocks(context).run(); }

}  // namespace daxfs::fsck
