#include "src/inode.h"

#include <utility>

namespace daxfs {

InodeRef::~InodeRef() {
  if (inode_ != nullptr) cache_->drop(*inode_, 1);
}

InodeTableCache::InodeTableCache(Volume& volume, LastReference on_last_reference)
    : volume_(volume), on_last_reference_(std::move(on_last_reference)) {}

InodeTableCache::~InodeTableCache() = default;

Result<InodeRef> InodeTableCache::get(InodeNumber number) {
  Shard& shard = shard_of(number);
  const std::lock_guard guard(shard.mutex);
  auto it = shard.inodes.find(number.value);
  if (it == shard.inodes.end()) {
    auto record = volume_.inodes().load(number);
    if (!record) return fail(record.error().code == ENOENT ? ESTALE : record.error().code);
    // Being freed: whoever knew it has let go of it.
    if (record->links == 0) return fail(ESTALE);
    it = shard.inodes
             .emplace(number.value,
                      std::make_unique<Inode>(number, volume_.inodes().slot(number), *record))
             .first;
  }
  it->second->references_ += 1;
  return InodeRef(this, it->second.get());
}

InodeRef InodeTableCache::adopt(InodeNumber number, const pmem::InodeRecord& record,
                                std::unique_lock<FairSharedMutex>& guard) {
  auto inode = std::make_unique<Inode>(number, volume_.inodes().slot(number), record);
  guard = std::unique_lock(inode->lock);
  inode->references_ = 1;
  Inode* raw = inode.get();
  Shard& shard = shard_of(number);
  const std::lock_guard shard_guard(shard.mutex);
  shard.inodes[number.value] = std::move(inode);
  return InodeRef(this, raw);
}

bool InodeTableCache::if_absent(InodeNumber number, absl::FunctionRef<void()> look) {
  Shard& shard = shard_of(number);
  const std::lock_guard guard(shard.mutex);
  if (shard.inodes.contains(number.value)) return false;
  look();
  return true;
}

void InodeTableCache::add_lookups(Inode& inode, std::uint64_t count) {
  const std::lock_guard guard(shard_of(inode.number).mutex);
  inode.references_ += count;
}

void InodeTableCache::drop(Inode& inode, std::uint64_t count) {
  Shard& shard = shard_of(inode.number);
  std::unique_ptr<Inode> last;
  {
    const std::lock_guard guard(shard.mutex);
    inode.references_ -= count < inode.references_ ? count : inode.references_;
    if (inode.references_ != 0) return;
    const auto it = shard.inodes.find(inode.number.value);
    last = std::move(it->second);
    shard.inodes.erase(it);
  }
  on_last_reference_(*last);
}

void InodeTableCache::forget(InodeNumber number, std::uint64_t count) {
  Inode* inode = nullptr;
  {
    Shard& shard = shard_of(number);
    const std::lock_guard guard(shard.mutex);
    const auto it = shard.inodes.find(number.value);
    if (it == shard.inodes.end()) return;
    inode = it->second.get();
  }
  drop(*inode, count);
}

void InodeTableCache::drain(const std::function<void(Inode&)>& last) {
  for (Shard& shard : shards_) {
    absl::flat_hash_map<std::uint64_t, std::unique_ptr<Inode>> inodes;
    {
      const std::lock_guard guard(shard.mutex);
      inodes.swap(shard.inodes);
    }
    for (auto& [number, inode] : inodes) last(*inode);
  }
}

void InodeTableCache::set_name_hint(Inode& inode, InodeNumber parent, std::string_view name) {
  const std::lock_guard guard(shard_of(inode.number).mutex);
  if (inode.hint_parent_ == parent && inode.hint_name_ == name) return;
  inode.hint_parent_ = parent;
  inode.hint_name_ = name;
}

void InodeTableCache::clear_name_hint(Inode& inode, InodeNumber parent, std::string_view name) {
  const std::lock_guard guard(shard_of(inode.number).mutex);
  if (inode.hint_parent_ == parent && inode.hint_name_ == name) inode.hint_name_.clear();
}

InodeTableCache::NameHint InodeTableCache::name_hint(InodeNumber number) {
  Shard& shard = shard_of(number);
  const std::lock_guard guard(shard.mutex);
  const auto it = shard.inodes.find(number.value);
  if (it == shard.inodes.end()) return {};
  return {it->second->hint_parent_, it->second->hint_name_};
}

}  // namespace daxfs
