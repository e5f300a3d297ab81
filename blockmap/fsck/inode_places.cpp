// The pool state and the chunk index say where inodes are. Both are short and tell little that
// cannot be told from elsewhere: names refer to inode numbers, and so show which chunks must exist.
#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/inspect_directory.h"
#include "blockmap/fsck/inspect_inode.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/volume/inode_walk.h"

namespace daxfs::fsck {
namespace {

using pmem::ChunkIndexBlock;
using pmem::kChunkInodes;
using pmem::PoolState;

constexpr std::size_t kEntries = std::tuple_size_v<decltype(ChunkIndexBlock::chunks)>;

std::size_t covered(const ChunkIndexBlock& index) {
  return offsetof(ChunkIndexBlock, chunks) + index.count * sizeof(std::uint64_t);
}

class Places {
 public:
  explicit Places(Context& context) : context_(context), medium_(context.medium) {}

  void run() {
    state_ = medium_.load<PoolState>(offset_of(kStateBlock));
    check_state();
    check_index();
    if (state_.inode_chunks < context_.super.inode_region_chunks) follow_names();
    if (changed_ && context_.accept(found_)) {
      seal(state_);
      Batch batch(context_);
      if (tail_changed_) batch.write_object(offset_of(tail_block_), tail_);
      batch.write_object(offset_of(kStateBlock), state_);
    }
  }

 private:
  void found(Code code, Severity severity, std::string object, std::string text) {
    found_.push_back({code, severity, std::move(object), std::move(text)});
    changed_ = true;
  }

  void check_state() {
    if (!is_sealed(state_)) {
      if (correct_bit(state_)) {
        found(Code::pool_state, Severity::repairable, "pool state",
              "one bit of it was wrong; corrected");
      } else {
        state_ = {};
        // There may be doorbells; the next mount looks.
        state_.incompatible = pmem::kPoolDoorbells;
        found(Code::pool_state, Severity::loss, "pool state",
              "is destroyed; written anew (inodes outside of the inode region are lost)");
      }
    }
    const std::uint64_t most =
        context_.super.inode_region_chunks + context_.area().count.value / pmem::kChunkBlocks;
    if (state_.inode_chunks == 0 || state_.inode_chunks > most) {
      if (!changed_) {
        found(Code::pool_state, Severity::loss, "pool state",
              fmt::format("says {} inode chunks, which cannot be; counted anew",
                          state_.inode_chunks));
      }
      state_.inode_chunks = 1;
    }
  }

  // Blocks of a file that are taken for an inode chunk would be "repaired" to death; a chunk that
  // is refused costs all inodes in it and in those listed behind it. So one inode proves it, also
  // one with a flipped bit. Free slots do not, unless there is nothing else: a forged index can
  // point to a few blocks of a file amid free space.
  bool looks_like_chunk(PoolBlock first) const {
    bool all_free = true;
    for (std::uint64_t i = 0; i < kChunkInodes; ++i) {
      const auto slot =
          medium_.load<pmem::InodeSlot>(offset_of(first) + ByteCount(i * pmem::kInodeBytes));
      if (slot.record.mode == 0 && is_empty_slot(slot)) {
        continue;
      }
      if (proves_inode(slot.record)) return true;
      all_free = false;
    }
    return all_free;
  }

  static bool proves_inode(pmem::InodeRecord record) {
    const bool sound =
        is_sealed(record, pmem::kInodeCrcBytes) || correct_bit(record, pmem::kInodeCrcBytes);
    return sound && is_file_type(record.mode);
  }

  // How many leading entries of an index block hold.
  std::uint32_t good_entries(const ChunkIndexBlock& index) {
    for (std::uint32_t i = 0; i < index.count; ++i) {
      const std::uint64_t chunk = index.chunks[i];
      if (!lies_within(context_.area(), chunk, pmem::kChunkBlocks) ||
          !looks_like_chunk(PoolBlock(chunk))) {
        return i;
      }
      for (std::uint64_t block = chunk; block < chunk + pmem::kChunkBlocks; ++block) {
        if (!seen_.insert(block).second) return i;
      }
    }
    return index.count;
  }

  bool read_index(std::uint64_t block, std::uint64_t rest, ChunkIndexBlock& index,
                  bool& corrected) {
    if (!lies_within(context_.area(), block, 1) || !seen_.insert(block).second) return false;
    index = medium_.load<ChunkIndexBlock>(offset_of(PoolBlock(block)));
    const auto sound = [&] {
      return index.magic == ChunkIndexBlock::kMagic && index.count <= kEntries &&
             index.count != 0 && is_sealed(index, covered(index));
    };
    if (sound()) return true;
    // What the count must be, if that is what is damaged (more than fits if the state is, too).
    const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(kEntries, rest));
    const std::uint32_t stored = index.count;
    index.count = count;
    corrected = sound() || (correct_bit(index, covered(index)) && sound());
    if (!corrected) index.count = stored;
    return corrected;
  }

  // The index is believed before the count in the state: each of its blocks has a checksum and says
  // how many chunks it lists.
  void check_index() {
    const std::uint64_t region = context_.super.inode_region_chunks;
    if (state_.inode_index == 0 && state_.inode_chunks <= region) return;
    std::uint64_t chunks = region;
    std::uint64_t next = state_.inode_index;
    bool cut = false;
    while (next != 0 && !cut) {
      ChunkIndexBlock index;
      bool corrected = false;
      if (!read_index(next, state_.inode_chunks - chunks, index, corrected)) {
        cut = true;
        break;
      }
      const std::uint32_t good = good_entries(index);
      if (good == 0) {
        cut = true;
        break;
      }
      if (corrected) write_corrected(PoolBlock(next), index);
      cut = good < index.count || (index.count < kEntries && index.next != 0);
      tail_block_ = PoolBlock(next);
      tail_ = index;
      tail_.count = good;
      chunks += good;
      next = index.next;
    }
    if (tail_block_.value == 0) chunks = std::min(chunks, state_.inode_chunks);
    if (!cut && chunks == state_.inode_chunks) return;
    const bool lost = chunks < state_.inode_chunks;
    found(
        Code::chunk_index, lost ? Severity::loss : Severity::repairable, "inode chunk index",
        lost ? fmt::format("is destroyed or makes no sense behind {} chunks; inodes from {} on are "
                           "lost",
                           chunks, chunks * kChunkInodes + 1)
             : fmt::format("lists {} chunks, which is not what the pool state says; corrected",
                           chunks));
    state_.inode_chunks = chunks;
    if (tail_block_.value == 0) {
      state_.inode_index = 0;
    } else if (cut) {
      tail_.next = 0;
      seal(tail_, covered(tail_));
      tail_changed_ = true;
    }
  }

  void write_corrected(PoolBlock block, const ChunkIndexBlock& index) {
    if (context_.accept(Code::chunk_index, Severity::repairable,
                        fmt::format("chunk index block {}", block.value),
                        "one bit of it was wrong; corrected")) {
      Batch(context_).write_object(offset_of(block), index);
    }
  }

  PoolOffset region_slot(std::uint64_t number) const {
    return offset_of(inode_region(context_.super).start) +
           ByteCount((number - 1) * pmem::kInodeBytes);
  }

  // Names refer to inodes behind the last chunk: then there are more chunks than the state says.
  // (Looking at the chunks themselves would also find inodes from before mkfs.)
  void follow_names() {
    const std::uint64_t most = context_.super.inode_region_chunks * kChunkInodes;
    std::uint64_t end = state_.inode_chunks * kChunkInodes;
    for (std::uint64_t n = 1; n <= end && !context_.cancelled(); ++n) {
      const auto record = medium_.load<pmem::InodeRecord>(region_slot(n));
      if (!S_ISDIR(record.mode)) continue;
      const InodePlan plan =
          inspect_inode(medium_, context_.area(), InodeNumber(n), region_slot(n));
      if (!plan.in_use || !S_ISDIR(plan.record.mode)) continue;
      const std::uint64_t largest = std::min(most, largest_named(InodeNumber(n), plan));
      if (largest <= end) continue;
      end = (largest + kChunkInodes - 1) / kChunkInodes * kChunkInodes;
    }
    if (end == state_.inode_chunks * kChunkInodes) return;
    if (!changed_) {
      found(Code::pool_state, Severity::repairable, "pool state",
            fmt::format("says {} inode chunks, but names refer to inodes of {}; corrected",
                        state_.inode_chunks, end / kChunkInodes));
    }
    state_.inode_chunks = end / kChunkInodes;
  }

  std::uint64_t largest_named(InodeNumber directory, const InodePlan& plan) const {
    std::uint64_t largest = 0;
    for (const Extent& extent : plan.extents) {
      for (PoolBlock at = extent.pool; at < extent.pool + extent.count; at += BlockCount(1)) {
        const auto block = inspect_directory_block(medium_, directory, at);
        for (const unsigned granule : block.entries) {
          const auto header = medium_.load<pmem::DirEntryHeader>(granule_offset(at, granule));
          if (header.inode <= largest || header.inode > kMostNumber) continue;
          if (is_used(header.inode)) largest = header.inode;
        }
      }
    }
    return largest;
  }

  bool is_used(std::uint64_t number) const {
    if (number > context_.super.inode_region_chunks * kChunkInodes) return false;
    const auto record = medium_.load<pmem::InodeRecord>(region_slot(number));
    return record.mode != 0 && is_sealed(record, pmem::kInodeCrcBytes);
  }

  static constexpr std::uint64_t kMostNumber = ~0ull / pmem::kInodeBytes;

  Context& context_;
  Medium& medium_;
  PoolState state_{};
  std::vector<Finding> found_;
  bool changed_ = false;
  absl::flat_hash_set<std::uint64_t> seen_;  // blocks of chunks and of the index
  PoolBlock tail_block_;                     // the last good index block
  ChunkIndexBlock tail_{};
  bool tail_changed_ = false;
};

}  // namespace

void check_inode_places(Context& context) {
  context.journal = std::make_unique<Journal>(context.medium, journal_geometry(context.super));
  Places(context).run();
  if (context.blocked()) return;
  context.allocator = std::make_unique<Allocator>();
  const auto state = context.medium.load<PoolState>(offset_of(kStateBlock));
  context.inodes = std::make_unique<InodeTable>(context.medium, *context.journal,
                                                *context.allocator, context.super, state);
  context.index_runs.clear();
  if (auto opened = context.inodes->open(context.index_runs); !opened) {
    context.accept(Code::chunk_index, Severity::fatal, "inode table", opened.error().text);
  }
}

}  // namespace daxfs::fsck
