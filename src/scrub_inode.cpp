// Inodes and directories: the records on the medium, and what is in DRAM of them.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <shared_mutex>
#include <span>
#include <utility>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/extent_record.h"
#include "blockmap/fsck/inspect_directory.h"
#include "blockmap/volume/inode_walk.h"
#include "blockmap/xattr.h"
#include "src/scrub.h"

namespace daxfs {
namespace {

// What the allocator and the gate are asked about in one hold of their locks.
constexpr std::size_t kRunsAtOnce = 256;
constexpr int kDirectoryBlocksAtOnce = 16;
// More of them say no more.
constexpr std::size_t kMostShared = 256;

std::string name_of(InodeNumber inode) { return fsck::name_of(inode); }

std::vector<PoolRange> runs_of(const fsck::InodePlan& plan) {
  std::vector<PoolRange> runs;
  for (const Extent& extent : plan.extents) runs.push_back({extent.pool, extent.count});
  for (const PoolBlock block : plan.chain) runs.push_back({block, BlockCount(1)});
  if (const PoolRange run = xattr_run(plan.record); !run.empty()) runs.push_back(run);
  return runs;
}

bool same_record(const pmem::InodeRecord& a, const pmem::InodeRecord& b) {
  constexpr std::size_t kFrom = sizeof a.crc;
  return std::memcmp(reinterpret_cast<const std::byte*>(&a) + kFrom,
                     reinterpret_cast<const std::byte*>(&b) + kFrom,
                     pmem::kInodeCrcBytes - kFrom) == 0;
}

}  // namespace

void Scrub::look_at(InodeNumber number) {
  for (;;) {
    if (const auto inode = fs_.inodes().get(number)) {
      const ReaderLock guard((*inode)->lock);
      return look_at_inode(**inode);
    }
    if (fs_.inodes().if_absent(number, [&] { look_at_slot(number); })) return;
  }
}

// One that nobody uses: free, damaged, or an orphan that could not be freed.
void Scrub::look_at_slot(InodeNumber number) {
  const PoolOffset place = volume_.inodes().slot(number);
  const auto record = volume_.medium().load<pmem::InodeRecord>(place);
  const bool orphan =
      record.mode != 0 && record.links == 0 && is_sealed(record, pmem::kInodeCrcBytes);
  const auto plan = fsck::inspect_inode(volume_.medium(), volume_.data_area(), number, place);
  if (volume_.medium().failed()) return;
  if (at_.phase == Phase::inodes && !orphan) {
    for (const fsck::Finding& finding : plan.findings) found(finding);
  }
  if (!plan.in_use) return;
  if (!orphan) return claim(name_of(number), runs_of(plan));
  for (const PoolRange& run : runs_of(plan)) owned_.mark(run);
}

void Scrub::look_at_inode(Inode& inode) {
  const InodeNumber number = inode.number;
  if (inode.disposed) {
    const auto slot = volume_.medium().load<pmem::InodeSlot>(inode.slot);
    if (at_.phase == Phase::inodes && (slot.record.mode != 0 || !is_empty_slot(slot))) {
      found("free-slot", Severity::repairable, name_of(number),
            "was removed, but its slot on the medium is not empty");
    }
    return;
  }
  const auto plan = fsck::inspect_inode(volume_.medium(), volume_.data_area(), number, inode.slot);
  claim(name_of(number), runs_of(plan));
  if (at_.phase != Phase::inodes || volume_.medium().failed()) return;
  ++(inode.is_directory() ? tally_.directories : tally_.files);
  for (const fsck::Finding& finding : plan.findings) found(finding);
  if (plan.findings.empty()) compare(inode, plan);
  if (inode.is_directory()) at_.directory_at = FileBlock(0);
}

void Scrub::claim(const std::string& who, const std::vector<PoolRange>& runs) {
  for (std::size_t i = 0; i < runs.size() && at_.phase != Phase::suspects; i += kRunsAtOnce) {
    const auto some = std::span(runs).subspan(i, std::min(kRunsAtOnce, runs.size() - i));
    if (const auto limbo = fs_.gate().find_limbo(some)) {
      found("free-block", Severity::loss, who,
            fmt::format("has block {}, which is in limbo, too", limbo->start.value), Spreads::yes);
    }
  }
  claim_from_allocator(who, runs);
}

void Scrub::claim_from_allocator(const std::string& who, const std::vector<PoolRange>& runs) {
  if (at_.phase == Phase::suspects) return note_suspects(who, runs);
  for (std::size_t i = 0; i < runs.size(); i += kRunsAtOnce) {
    const auto some = std::span(runs).subspan(i, std::min(kRunsAtOnce, runs.size() - i));
    if (const auto free = volume_.allocator().find_free(some)) {
      found("free-block", Severity::loss, who,
            fmt::format("has block {}, which is in the free space, too", free->start.value),
            Spreads::yes);
    }
  }
  for (const PoolRange& run : runs) {
    tally_.claimed += run.count;
    const std::uint64_t end = run.end().value;
    for (std::uint64_t at = owned_.find(run.start.value, end, true); at < end;) {
      const std::uint64_t stop = owned_.find(at, end, false);
      const PoolRange both{PoolBlock(at), BlockCount(stop - at)};
      for (const PoolRange& part : volume_.allocator().in_use_since_watch(both)) {
        if (shared_.size() < kMostShared) shared_.push_back({part, {}});
      }
      at = owned_.find(stop, end, true);
    }
    owned_.mark(run);
  }
}

void Scrub::note_suspects(const std::string& who, const std::vector<PoolRange>& runs) {
  for (const PoolRange& run : runs) {
    owned_.mark(run);
    for (Shared& shared : shared_) {
      const bool meets = run.start < shared.range.end() && shared.range.start < run.end();
      if (meets) shared.by.push_back(who);
    }
  }
}

void Scrub::compare(Inode& inode, const fsck::InodePlan& plan) {
  const auto differs = [&](const char* what) {
    found("memory", Severity::loss, name_of(inode.number),
          fmt::format("has {} on the medium that this mount has not put there", what),
          Spreads::yes);
  };
  if (!plan.in_use || !same_record(inode.record, plan.record)) differs("a record");
  if (!volume_.inodes().taken(inode.number)) {
    found("memory", Severity::loss, name_of(inode.number),
          "is in use, and its number is free for others, too", Spreads::yes);
  }
  if (!inode.extents) return;
  const ExtentMap& map = inode.map();
  auto extent = plan.extents.begin();
  bool same = true;
  map.for_each(kWholeFile, [&](const Extent& mine) {
    same = same && extent != plan.extents.end() && *extent == mine;
    if (same) ++extent;
  });
  if (!same || extent != plan.extents.end()) differs("extents");
  // The map has the oldest first.
  if (!std::ranges::equal(plan.chain.rbegin(), plan.chain.rend(), map.chain().begin(),
                          map.chain().end())) {
    differs("extent blocks");
  }
}

bool Scrub::look_at_directory(InodeNumber number) {
  const auto ref = fs_.inodes().get(number);
  if (!ref) return false;
  Inode& inode = **ref;
  if (!inode.is_directory() || !fs_.inodes().load_extents(inode)) return false;
  std::vector<InodeRef> entries;  // let go without the lock
  const ReaderLock guard(inode.lock);
  if (inode.disposed) return false;
  for (int i = 0; i < kDirectoryBlocksAtOnce; ++i) {
    const auto extent = inode.map().first_from(*at_.directory_at);
    if (!extent) return false;
    const FileBlock at = std::max(extent->file, *at_.directory_at);
    if (extent->unwritten) {
      found("directory-extents", Severity::repairable, name_of(number),
            fmt::format("has unwritten blocks in the directory, at its block {}", at.value));
      at_.directory_at = extent->end();
      continue;
    }
    look_at_directory_block(inode, at, extent->pool + (at - extent->file), entries);
    at_.directory_at = at + BlockCount(1);
  }
  return true;
}

void Scrub::look_at_directory_block(Inode& inode, FileBlock at, PoolBlock block,
                                    std::vector<InodeRef>& entries) {
  const auto plan = fsck::inspect_directory_block(volume_.medium(), inode.number, block);
  if (volume_.medium().failed()) return;
  if (!plan.corrections.empty()) {
    found("entry-damaged", Severity::repairable, name_of(inode.number),
          fmt::format("one bit of an entry in its block {} is wrong", at.value));
  }
  if (plan.destroyed != 0) {
    found("entry-damaged", Severity::loss, name_of(inode.number),
          fmt::format("an entry in its block {} is destroyed", at.value));
  }
  if (!plan.corrections.empty() || plan.destroyed != 0) return;
  for (const unsigned granule : plan.entries) {
    look_at_entry(inode.number, granule_offset(block, granule), entries);
  }
  if (inode.directory) compare_names(inode, at, block, plan.entries);
}

void Scrub::look_at_entry(InodeNumber directory, PoolOffset at, std::vector<InodeRef>& entries) {
  const auto header = volume_.medium().load<pmem::DirEntryHeader>(at);
  const auto wrong = [&](std::string_view code, Severity severity, std::string_view what) {
    found(code, severity, name_of(directory),
          fmt::format("the entry \"{}\" {}", name_at(volume_.medium(), at), what));
  };
  const InodeNumber target{header.inode};
  auto inode = fs_.inodes().get(target);
  if (!inode) {
    if (inode.error().code != ESTALE) return;  // damaged: told elsewhere
    return wrong("entry-dangling", Severity::loss,
                 fmt::format("refers to inode {}, which is not in use", target.value));
  }
  if (IFTODT((*inode)->type) != header.type) {
    wrong("entry-type", Severity::repairable,
          fmt::format("has another file type than inode {}", target.value));
  }
  entries.push_back(std::move(*inode));
}

void Scrub::compare_names(Inode& inode, FileBlock at, PoolBlock block,
                          const std::vector<unsigned>& granules) {
  std::uint64_t starts = 0;
  bool same = true;
  for (const unsigned granule : granules) {
    starts |= 1ull << granule;
    const std::string_view name = name_at(volume_.medium(), granule_offset(block, granule));
    const auto entry = inode.directory->find(name);
    same = same && entry && entry->name.data() == name.data();
  }
  if (same && starts == inode.directory->starts_in(at)) return;
  found("memory", Severity::loss, name_of(inode.number),
        fmt::format("has names in its block {} that this mount has not put there", at.value),
        Spreads::yes);
}

}  // namespace daxfs
