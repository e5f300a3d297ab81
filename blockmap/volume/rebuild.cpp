#include "blockmap/volume/rebuild.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/mutex.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kWordsPerChunk = pmem::kChunkInodes / 64;

struct Damage {
  InodeNumber inode;
  const char* what = nullptr;
  std::optional<PoolBlock> doubly_owned;
};

class Scan {
 public:
  Scan(Medium& medium, const InodeTable& inodes, const InodeWalk& walk, BlockBitmap& owned)
      : medium_(medium),
        inodes_(inodes),
        walk_(walk),
        owned_(owned),
        chunks_(inodes.capacity() / pmem::kChunkInodes),
        used_(chunks_ * kWordsPerChunk) {}

  void run(unsigned threads) {
    std::vector<std::jthread> helpers;
    for (unsigned i = 1; i < threads && i < chunks_; ++i) {
      try {
        helpers.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        break;  // fewer threads only take longer
      }
    }
    work();
  }

  std::optional<Damage> damage() {
    const MutexLock lock(mutex_);
    return damage_;
  }
  std::span<const std::uint64_t> used() const { return used_; }
  UnfinishedInodes take_unfinished() {
    const MutexLock lock(mutex_);
    std::ranges::sort(unfinished_.orphans);
    std::ranges::sort(unfinished_.detaches);
    return std::move(unfinished_);
  }

 private:
  void work() {
    UnfinishedInodes mine;
    for (;;) {
      const std::uint64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= chunks_ || !scan_chunk(chunk, mine)) break;
    }
    const MutexLock lock(mutex_);
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(unfinished_.orphans, mine.orphans);
    append(unfinished_.detaches, mine.detaches);
  }

  bool scan_chunk(std::uint64_t chunk, UnfinishedInodes& mine) {
    const std::uint64_t first = chunk * pmem::kChunkInodes + 1;
    const PoolOffset start = inodes_.slot(InodeNumber(first));
    for (std::uint64_t i = 0; i < pmem::kChunkInodes; ++i) {
      const InodeNumber inode(first + i);
      const PoolOffset place = start + ByteCount(i * pmem::kInodeBytes);
      const auto slot = medium_.load<pmem::InodeSlot>(place);
      if (const char* what = walk_.damage(slot); what != nullptr) return stop({inode, what, {}});
      if (slot.record.mode == 0) continue;

      used_[(first - 1 + i) / 64] |= 1ull << (i % 64);
      std::optional<PoolBlock> taken;
      const bool sound = walk_.for_each_run(inode, place, slot, [&](PoolRange run) {
        const auto before = owned_.mark(run);
        if (!taken) taken = before;
      });
      if (!sound) return stop({inode, "its extents are damaged", {}});
      if (taken) return stop({inode, nullptr, taken});

      if (slot.record.links == 0) {
        mine.orphans.push_back(inode);
      } else if (slot.record.detach_end != 0) {
        mine.detaches.push_back(inode);
      }
    }
    return true;
  }

  // The damage with the lowest number is reported, whichever thread was faster.
  bool stop(Damage damage) {
    const MutexLock lock(mutex_);
    if (!damage_ || damage.inode < damage_->inode) damage_ = damage;
    next_chunk_.store(chunks_, std::memory_order_relaxed);
    return false;
  }

  Medium& medium_;
  const InodeTable& inodes_;
  const InodeWalk& walk_;
  BlockBitmap& owned_;
  const std::uint64_t chunks_;
  std::atomic<std::uint64_t> next_chunk_{0};
  std::vector<std::uint64_t>
      used_;  // bits; the words of a chunk belong to the thread that scans it
  Mutex mutex_;
  UnfinishedInodes unfinished_ GUARDED_BY(mutex_);
  std::optional<Damage> damage_ GUARDED_BY(mutex_);
};

bool holds(PoolRange run, PoolBlock block) { return run.start <= block && block < run.end(); }

// Everybody who claims a block, for the message. Slow, and only reached when the pool is damaged.
std::string claimants(Medium& medium, const InodeTable& inodes, const InodeWalk& walk,
                      std::span<const PoolRange> index_runs, std::span<const PoolRange> pin_records,
                      PoolBlock block) {
  std::vector<std::string> names;
  for (const PoolRange& run : pin_records) {
    if (holds(run, block)) names.emplace_back("the pin records");
  }
  for (const PoolRange& run : index_runs) {
    if (holds(run, block)) names.emplace_back("the inode table");
  }
  for (std::uint64_t n = 1; n <= inodes.capacity() && names.size() < 2; ++n) {
    const InodeNumber inode(n);
    const auto slot = medium.load<pmem::InodeSlot>(inodes.slot(inode));
    if (slot.record.mode == 0 || walk.damage(slot) != nullptr) continue;
    walk.for_each_run(inode, inodes.slot(inode), slot, [&](PoolRange run) {
      if (holds(run, block)) names.push_back(fmt::format("inode {}", n));
    });
  }
  return fmt::format("{}", fmt::join(names, " and by "));
}

std::unexpected<Problem> doubly_owned(PoolBlock block, const std::string& by) {
  return problem(EUCLEAN,
                 fmt::format("block {} is used twice, by {}; run fsck.daxfs", block.value, by));
}

}  // namespace

Outcome<UnfinishedInodes> rebuild(Medium& medium, Allocator& allocator, InodeTable& inodes,
                                  PoolRange data_area, unsigned threads, PinnedSpace& pins) {
  std::vector<PoolRange> index_runs;
  if (auto opened = inodes.open(index_runs); !opened) {
    return problem(opened.error().code, opened.error().text + "; run fsck.daxfs");
  }
  BlockBitmap owned(medium.blocks());
  for (const PoolRange& run : index_runs) {
    if (const auto taken = owned.mark(run)) return doubly_owned(*taken, "two inode chunks");
  }
  for (const PoolRange& run : pins.records) {
    if (const auto taken = owned.mark(run)) {
      return doubly_owned(*taken, "the inode table and by the pin records");
    }
  }

  const InodeWalk walk(medium, allocator, data_area);
  Scan scan(medium, inodes, walk, owned);
  scan.run(threads);
  if (const auto damage = scan.damage()) {
    if (damage->doubly_owned) {
      return doubly_owned(*damage->doubly_owned, claimants(medium, inodes, walk, index_runs,
                                                           pins.records, *damage->doubly_owned));
    }
    return problem(EUCLEAN,
                   fmt::format("inode {}: {}; run fsck.daxfs", damage->inode.value, damage->what));
  }
  const auto used = scan.used();
  for (std::uint64_t word = 0; word < used.size(); ++word) {
    for (std::uint64_t bits = used[word]; bits != 0; bits &= bits - 1) {
      const auto bit = static_cast<std::uint64_t>(std::countr_zero(bits));
      inodes.mark_used(InodeNumber(word * 64 + bit + 1));
    }
  }

  for (const PoolRange& range : pins.kept) {
    owned.for_each_clear(range, [&](PoolRange run) { pins.unowned.push_back(run); });
  }
  for (const PoolRange& run : pins.unowned) owned.mark(run);

  std::vector<PoolRange> free_runs;
  owned.for_each_clear(data_area, [&](PoolRange run) { free_runs.push_back(run); });
  if (!allocator.rebuild(free_runs)) return problem(EUCLEAN, "the free space cannot be rebuilt");
  return scan.take_unfinished();
}

}  // namespace daxfs
