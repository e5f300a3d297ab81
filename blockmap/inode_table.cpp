#include "blockmap/inode_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "base/crc32c.h"
#include "base/require.h"
#include "blockmap/layout.h"

namespace daxfs {
namespace {

using pmem::ChunkIndexBlock;
using pmem::kChunkBlocks;
using pmem::kChunkInodes;

constexpr std::uint64_t kWordsPerChunk = kChunkInodes / 64;
constexpr std::size_t kIndexHeaderBytes = offsetof(ChunkIndexBlock, chunks);
constexpr std::size_t kIndexEntries = std::tuple_size_v<decltype(ChunkIndexBlock::chunks)>;

std::size_t covered_bytes(const ChunkIndexBlock& index) {
  return kIndexHeaderBytes + index.count * sizeof(std::uint64_t);
}

void stage_state(Transaction& tx, pmem::PoolState& state) {
  seal(state);
  tx.write_object(offset_of(kStateBlock), state);
}

void stage_index_header(Transaction& tx, PoolBlock block, ChunkIndexBlock& index) {
  seal(index, covered_bytes(index));
  tx.write(offset_of(block), std::as_bytes(std::span(&index, 1)).first(kIndexHeaderBytes));
}

}  // namespace

InodeTable::InodeTable(Medium& medium, Journal& journal, Allocator& allocator,
                       const pmem::Superblock& super, const pmem::PoolState& state)
    : medium_(medium), journal_(journal), allocator_(allocator), super_(super), state_(state) {}

Outcome<void> InodeTable::open(std::vector<PoolRange>& used) {
  const MutexLock lock(mutex_);
  const PoolRange area = data_area(super_);
  const std::uint64_t in_region = std::min(state_.inode_chunks, super_.inode_region_chunks);
  std::uint64_t rest = state_.inode_chunks - in_region;
  if (state_.inode_chunks == 0 || rest > area.count.value / kChunkBlocks) {
    return problem(EUCLEAN,
                   fmt::format("pool state: {} inode chunks cannot be", state_.inode_chunks));
  }
  // Every index block has to bring at least one chunk, so a loop ends with `rest`.
  std::uint64_t next = state_.inode_index;
  while (rest > 0) {
    const auto broken = [&](const char* what) {
      return problem(EUCLEAN, fmt::format("inode chunk index, block {}: {}", next, what));
    };
    if (!lies_within(area, next, 1)) return broken("lies outside the data area");
    const auto index = medium_.load<ChunkIndexBlock>(offset_of(PoolBlock(next)));
    if (index.magic != ChunkIndexBlock::kMagic || index.count > kIndexEntries ||
        !is_sealed(index, covered_bytes(index))) {
      return broken("checksum does not match");
    }
    if (index.count != std::min<std::uint64_t>(kIndexEntries, rest)) {
      return broken("lists another number of chunks than the pool state");
    }
    for (std::size_t i = 0; i < index.count; ++i) {
      if (!lies_within(area, index.chunks[i], kChunkBlocks))
        return broken("lists a chunk outside the pool");
      index_chunks_.push_back(PoolBlock(index.chunks[i]));
      used.push_back({PoolBlock(index.chunks[i]), BlockCount(kChunkBlocks)});
    }
    used.push_back({PoolBlock(next), BlockCount(1)});
    index_tail_ = PoolBlock(next);
    rest -= index.count;
    next = index.next;
  }
  if (next != 0) {
    return problem(EUCLEAN,
                   fmt::format("inode chunk index: goes on at block {} behind its end", next));
  }
  free_bits_.assign(state_.inode_chunks * kWordsPerChunk, ~0ull);
  hint_ = 0;
  used_ = 0;
  capacity_.store(state_.inode_chunks * kChunkInodes, std::memory_order_release);
  return {};
}

std::uint64_t InodeTable::capacity() const { return capacity_.load(std::memory_order_acquire); }

bool InodeTable::valid(InodeNumber inode) const { return inode.value - 1 < capacity(); }

PoolOffset InodeTable::slot(InodeNumber inode) const {
  DAXFS_REQUIRE(valid(inode), "inode {}: there are {}", inode.value, capacity());
  const std::uint64_t chunk = (inode.value - 1) / kChunkInodes;
  const ByteCount within((inode.value - 1) % kChunkInodes * pmem::kInodeBytes);
  if (chunk < super_.inode_region_chunks) {
    return offset_of(PoolBlock(super_.inode_region_start + chunk * kChunkBlocks)) + within;
  }
  const MutexLock lock(mutex_);
  return offset_of(index_chunks_[chunk - super_.inode_region_chunks]) + within;
}

Result<pmem::InodeRecord> InodeTable::load(InodeNumber inode) const {
  if (!valid(inode)) return fail(ENOENT);
  const auto record = medium_.load<pmem::InodeRecord>(slot(inode));
  if (record.mode == 0) return fail(ENOENT);
  if (!is_sealed(record, pmem::kInodeCrcBytes)) return fail(EUCLEAN);
  return record;
}

void InodeTable::stage(Transaction& tx, InodeNumber inode, pmem::InodeRecord& record) const {
  seal(record, pmem::kInodeCrcBytes);
  tx.write_object(slot(inode), record);
}

Result<InodeNumber> InodeTable::allocate() {
  const MutexLock lock(mutex_);
  while (hint_ < free_bits_.size() && free_bits_[hint_] == 0) ++hint_;
  if (hint_ == free_bits_.size()) {
    if (const auto grown = grow(); !grown) return std::unexpected(grown.error());
  }
  std::uint64_t& word = free_bits_[hint_];
  const auto bit = static_cast<std::uint64_t>(std::countr_zero(word));
  word &= word - 1;
  ++used_;
  return InodeNumber(hint_ * 64 + bit + 1);
}

std::uint32_t InodeTable::next_generation(InodeNumber inode) const {
  const auto last = medium_.load<pmem::InodeRecord>(slot(inode)).generation;
  if (last != 0) return last == UINT32_MAX ? 1 : last + 1;
  // Never used, as far as the slot says: a file handle must not open what has its number in another
  // pool, nor in this one after a check has had to begin a chunk anew.
  std::uint64_t mounts = 0;
  {
    const MutexLock lock(mutex_);
    mounts = state_.mounts;
  }
  const std::array<std::uint64_t, 2> where{inode.value, mounts};
  return sealed_crc(std::as_bytes(std::span(where)), crc32c(std::as_bytes(std::span(super_.uuid))));
}

void InodeTable::stage_free(Transaction& tx, InodeNumber inode,
                            const pmem::InodeRecord& record) const {
  pmem::InodeSlot empty{};
  empty.record.generation = record.generation;
  tx.write_object(slot(inode), empty);
}

void InodeTable::release(InodeNumber inode) {
  DAXFS_REQUIRE(valid(inode), "inode {}: there are {}", inode.value, capacity());
  const MutexLock lock(mutex_);
  const std::uint64_t index = inode.value - 1;
  const std::uint64_t bit = 1ull << (index % 64);
  if ((free_bits_[index / 64] & bit) == 0) --used_;
  free_bits_[index / 64] |= bit;
  hint_ = std::min(hint_, index / 64);
}

void InodeTable::mark_used(InodeNumber inode) {
  DAXFS_REQUIRE(valid(inode), "inode {}: there are {}", inode.value, capacity());
  const MutexLock lock(mutex_);
  const std::uint64_t index = inode.value - 1;
  const std::uint64_t bit = 1ull << (index % 64);
  if ((free_bits_[index / 64] & bit) != 0) ++used_;
  free_bits_[index / 64] &= ~bit;
}

bool InodeTable::taken(InodeNumber inode) const {
  DAXFS_REQUIRE(valid(inode), "inode {}: there are {}", inode.value, capacity());
  const MutexLock lock(mutex_);
  const std::uint64_t index = inode.value - 1;
  return (free_bits_[index / 64] >> (index % 64) & 1) == 0;
}

Outcome<void> InodeTable::verify(std::vector<PoolRange>& used) const {
  const MutexLock lock(mutex_);
  const auto state = medium_.load<pmem::PoolState>(offset_of(kStateBlock));
  if (!is_sealed(state)) return problem(EUCLEAN, "pool state: checksum does not match");
  if (state.inode_chunks != state_.inode_chunks || state.inode_index != state_.inode_index ||
      state.flags != state_.flags || state.incompatible != state_.incompatible) {
    return problem(EUCLEAN, "pool state: is not what this mount has written there");
  }
  InodeTable again(medium_, journal_, allocator_, super_, state);
  std::vector<PoolRange> found;
  if (auto opened = again.open(found); !opened) return opened;
  const MutexLock again_lock(again.mutex_);
  if (again.index_chunks_ != index_chunks_) {
    return problem(EUCLEAN, "inode chunk index: lists other chunks than this mount uses");
  }
  used.insert(used.end(), found.begin(), found.end());
  return {};
}

std::uint64_t InodeTable::used() const {
  const MutexLock lock(mutex_);
  return used_;
}

Status InodeTable::add_incompatible(std::uint64_t bits) {
  const MutexLock lock(mutex_);
  if ((state_.incompatible & bits) == bits) return {};
  pmem::PoolState changed = state_;
  changed.incompatible |= bits;
  Transaction tx;
  stage_state(tx, changed);
  if (const Status committed = journal_.commit(tx); !committed) return committed;
  state_ = changed;
  return {};
}

Status InodeTable::set_state_flags(std::uint32_t flags, bool count_mount,
                                   std::optional<std::uint64_t> incompatible) {
  // Committed under the lock: growing rewrites the same record.
  const MutexLock lock(mutex_);
  state_.flags = flags;
  if (count_mount) ++state_.mounts;
  state_.incompatible = incompatible.value_or(state_.incompatible);
  Transaction tx;
  stage_state(tx, state_);
  return journal_.commit(tx);
}

Result<void> InodeTable::grow() {
  Transaction tx;
  pmem::PoolState grown = state_;
  ++grown.inode_chunks;
  if (state_.inode_chunks < super_.inode_region_chunks) {
    const PoolBlock chunk(super_.inode_region_start + state_.inode_chunks * kChunkBlocks);
    medium_.zero(offset_of(chunk), bytes(BlockCount(kChunkBlocks)));
    medium_.fence();
  } else if (const auto added = add_index_chunk(tx, grown); !added) {
    return added;
  }
  stage_state(tx, grown);
  if (const Status committed = journal_.commit(tx); !committed) return committed;
  state_ = grown;
  free_bits_.resize(state_.inode_chunks * kWordsPerChunk, ~0ull);
  capacity_.store(state_.inode_chunks * kChunkInodes, std::memory_order_release);
  return {};
}

Result<void> InodeTable::add_index_chunk(Transaction& tx, pmem::PoolState& grown) {
  const auto chunk = allocator_.allocate_run(BlockCount(kChunkBlocks));
  if (!chunk) return std::unexpected(chunk.error());

  ChunkIndexBlock tail{};
  if (index_tail_.value != 0) tail = medium_.load<ChunkIndexBlock>(offset_of(index_tail_));
  if (index_tail_.value != 0 && tail.count < kIndexEntries) {
    tail.chunks[tail.count] = chunk->start.value;
    const ByteCount place(kIndexHeaderBytes + tail.count * sizeof(std::uint64_t));
    tx.write_object(offset_of(index_tail_) + place, chunk->start.value);
    ++tail.count;
    stage_index_header(tx, index_tail_, tail);
  } else {
    const auto block = allocator_.allocate_run(BlockCount(1));
    if (!block) {
      // Just allocated, so it cannot overlap free space.
      static_cast<void>(allocator_.free(*chunk));
      return std::unexpected(block.error());
    }
    ChunkIndexBlock fresh{};
    fresh.magic = ChunkIndexBlock::kMagic;
    fresh.count = 1;
    fresh.chunks[0] = chunk->start.value;
    seal(fresh, covered_bytes(fresh));
    medium_.write(offset_of(block->start), std::as_bytes(std::span(&fresh, 1)));
    if (index_tail_.value != 0) {
      tail.next = block->start.value;
      stage_index_header(tx, index_tail_, tail);
    } else {
      grown.inode_index = block->start.value;
    }
    index_tail_ = block->start;
  }
  medium_.zero(offset_of(chunk->start), bytes(chunk->count));
  medium_.fence();
  index_chunks_.push_back(chunk->start);
  return {};
}

}  // namespace daxfs
