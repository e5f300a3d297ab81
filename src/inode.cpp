#include "src/inode.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "src/doorbells.h"

namespace daxfs {

void Inode::fill_attributes(struct stat& out) const {
  out = {};
  out.st_ino = number.value;
  out.st_mode = record.mode;
  out.st_nlink = record.links;
  out.st_uid = record.uid;
  out.st_gid = record.gid;
  out.st_rdev = record.rdev;
  out.st_size = static_cast<off_t>(record.size);
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  out.st_blocks = static_cast<blkcnt_t>(record.blocks * (kBlockSize / 512));
  out.st_atim = to_timespec(atime.load(std::memory_order_relaxed));
  out.st_mtim = to_timespec(mtime.load(std::memory_order_relaxed));
  out.st_ctim = to_timespec(ctime.load(std::memory_order_relaxed));
}

bool Inode::has_attached() const {
  const Doorbells* const bells = doorbells.load(std::memory_order_acquire);
  return bells != nullptr && bells->any();
}

void Inode::sync_times() {
  record.atime_ns = atime.load(std::memory_order_relaxed);
  record.mtime_ns = mtime.load(std::memory_order_relaxed);
  record.ctime_ns = ctime.load(std::memory_order_relaxed);
}

mode_t Inode::privileges() const {
  // A setgid bit without group execution marks mandatory locking, not privilege: it stays.
  const mode_t group = (record.mode & S_IXGRP) != 0 ? S_ISGID : 0;
  return record.mode & (S_ISUID | group);
}

void Inode::note_growth(std::uint64_t from) {
  grown_from = grown_to > grown_from ? std::min(grown_from, from) : from;
  grown_to = end_to_tell = record.size;
}

void Inode::note_end(std::uint64_t size) {
  grown_to = std::min(grown_to, size);
  end_to_tell = grown_to > grown_from ? grown_to : 0;
}

void Inode::note_append() { grown_to = end_to_tell = record.size; }

InodeRef::~InodeRef() {
  if (inode_ != nullptr) cache_->drop(inode_->number, 1);
}

InodeTableCache::InodeTableCache(Volume& volume, LastReference on_last_reference)
    : volume_(volume), on_last_reference_(std::move(on_last_reference)) {}

InodeTableCache::~InodeTableCache() = default;

Result<InodeRef> InodeTableCache::get(InodeNumber number) {
  Shard& shard = shard_of(number);
  const MutexLock guard(shard.mutex);
  auto it = shard.inodes.find(number.value);
  if (it == shard.inodes.end()) {
    auto record = volume_.inodes().load(number);
    if (!record) return fail(record.error().code == ENOENT ? ESTALE : record.error().code);
    // Being freed: all that knew it have let go of it.
    if (record->links == 0) return fail(ESTALE);
    it = shard.inodes
             .emplace(number.value, Entry{.inode = std::make_unique<Inode>(
                                              number, volume_.inodes().slot(number), *record)})
             .first;
  }
  it->second.references += 1;
  return InodeRef(this, it->second.inode.get());
}

// The compiler has no words for a lock that goes along with what is returned.
InodeRef InodeTableCache::adopt(InodeNumber number,
                                const pmem::InodeRecord& record) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  auto inode = std::make_unique<Inode>(number, volume_.inodes().slot(number), record);
  inode->lock.lock();
  Inode* raw = inode.get();
  Shard& shard = shard_of(number);
  const MutexLock shard_guard(shard.mutex);
  shard.inodes[number.value] = {.inode = std::move(inode), .references = 1};
  return InodeRef(this, raw);
}

bool InodeTableCache::if_absent(InodeNumber number, absl::FunctionRef<void()> look) {
  Shard& shard = shard_of(number);
  const MutexLock guard(shard.mutex);
  if (shard.inodes.contains(number.value)) return false;
  look();
  return true;
}

void InodeTableCache::add_lookups(const Inode& inode, std::uint64_t count) {
  Shard& shard = shard_of(inode.number);
  const MutexLock guard(shard.mutex);
  shard.inodes.find(inode.number.value)->second.references += count;
}

void InodeTableCache::drop(InodeNumber number, std::uint64_t count) {
  Shard& shard = shard_of(number);
  std::unique_ptr<Inode> last;
  {
    const MutexLock guard(shard.mutex);
    const auto it = shard.inodes.find(number.value);
    if (it == shard.inodes.end()) return;
    Entry& entry = it->second;
    entry.references -= std::min(count, entry.references);
    if (entry.references != 0) return;
    last = std::move(entry.inode);
    shard.inodes.erase(it);
  }
  on_last_reference_(*last);
}

void InodeTableCache::drain(const std::function<void(Inode&)>& last) {
  for (Shard& shard : shards_) {
    absl::flat_hash_map<std::uint64_t, Entry> inodes;
    {
      const MutexLock guard(shard.mutex);
      inodes.swap(shard.inodes);
    }
    for (auto& [number, entry] : inodes) last(*entry.inode);
  }
}

void InodeTableCache::set_name_hint(const Inode& inode, InodeNumber parent, std::string_view name) {
  Shard& shard = shard_of(inode.number);
  const MutexLock guard(shard.mutex);
  NameHint& hint = shard.inodes.find(inode.number.value)->second.name;
  if (hint.parent == parent && hint.name == name) return;
  hint.parent = parent;
  hint.name = name;
}

void InodeTableCache::clear_name_hint(const Inode& inode, InodeNumber parent,
                                      std::string_view name) {
  Shard& shard = shard_of(inode.number);
  const MutexLock guard(shard.mutex);
  NameHint& hint = shard.inodes.find(inode.number.value)->second.name;
  if (hint.parent == parent && hint.name == name) hint.name.clear();
}

InodeTableCache::NameHint InodeTableCache::name_hint(InodeNumber number) {
  Shard& shard = shard_of(number);
  const MutexLock guard(shard.mutex);
  const auto it = shard.inodes.find(number.value);
  return it != shard.inodes.end() ? it->second.name : NameHint{};
}

}  // namespace daxfs
