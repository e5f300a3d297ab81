#include "src/inodes.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>

#include "base/clock.h"
#include "src/doorbells.h"

namespace daxfs {

Inodes::Inodes(const Mount& mount, Health& health, Gate& gate, KernelPages& pages,
               Policies& policies)
    : mount_(mount),
      health_(health),
      gate_(gate),
      pages_(pages),
      policies_(policies),
      table_(mount.volume, [this](Inode& inode) { last_reference(inode); }) {
  // If it cannot be read, every operation will say so.
  if (auto root = table_.get(kRootInode)) root_ = std::move(*root);
}

Result<InodeRef> Inodes::child(InodeNumber directory, InodeNumber number) {
  if (number == directory) return fail(EUCLEAN);
  auto ref = table_.get(number);
  if (ref && (*ref)->is_directory() && (*ref)->parent != directory.value) return fail(EUCLEAN);
  return ref;
}

InodeRef Inodes::adopt(InodeNumber number, const pmem::InodeRecord& record) {
  return table_.adopt(number, record);
}

std::string Inodes::path_of(InodeNumber inode) {
  if (inode == kRootInode) return "/";
  std::string path;
  for (int depth = 0; inode != kRootInode; ++depth) {
    const auto hint = table_.name_hint(inode);
    if (hint.name.empty() || depth > 1000) return "";
    path.insert(0, "/" + hint.name);
    inode = hint.parent;
  }
  return path;
}

Status Inodes::load_extents(Inode& inode) {
  if (inode.extents_loaded.load(std::memory_order_acquire)) return {};
  const WriterLock guard(inode.lock);
  if (inode.extents) return {};
  auto map = ExtentMap::load(mount_.volume.medium(), mount_.volume.allocator(), inode.number,
                             inode.slot, mount_.volume.data_area());
  if (!map) return std::unexpected(map.error());
  inode.extents.emplace(std::move(*map));
  inode.extents_loaded.store(true, std::memory_order_release);
  return {};
}

Status Inodes::load_directory(Inode& inode) {
  if (!inode.is_directory()) return fail(ENOTDIR);
  if (const Status loaded = load_extents(inode); !loaded) return loaded;
  {
    const ReaderLock guard(inode.lock);
    if (inode.directory) return {};
  }
  const WriterLock guard(inode.lock);
  if (inode.directory) return {};
  auto directory = Directory::load(mount_.volume.medium(), mount_.volume.allocator(), inode.number,
                                   inode.map_to_change());
  if (!directory) return std::unexpected(directory.error());
  inode.directory = std::move(*directory);
  return {};
}

void Inodes::stage(Transaction& tx, Inode& inode) {
  if (Doorbells* const bells = inode.doorbells.load(std::memory_order_acquire))
    bells->publish(inode.record.size);
  inode.sync_times();
  mount_.volume.inodes().stage(tx, inode.number, inode.record);
}

Status Inodes::commit(Inode& inode) {
  Transaction tx;
  stage(tx, inode);
  return health_.commit(tx);
}

// Writers of one file meet here. A time that another one has stored is not durable before that
// one's fence, so only then it need not be stored again. A fence of this thread does not cover
// another thread's flush. And the clock is read with the mutex held, so that no older time reaches
// the medium behind a newer one that somebody was promised. Both cost something only once a tick.
void Inodes::touch(Inode& inode) {
  Medium& medium = mount_.volume.medium();
  std::int64_t now = file_time_now();
  const bool known = inode.times_fenced.load(std::memory_order_acquire) == now &&
                     inode.mtime.load(std::memory_order_relaxed) == now &&
                     inode.ctime.load(std::memory_order_relaxed) == now;
  if (!known) {
    const MutexLock guard(inode.times_mutex);
    now = file_time_now();
    const auto set = [&](std::atomic<std::int64_t>& time, std::size_t place) {
      time.store(now, std::memory_order_relaxed);
      medium.store_u64(inode.slot + ByteCount(place), static_cast<std::uint64_t>(now));
    };
    set(inode.mtime, offsetof(pmem::InodeRecord, mtime_ns));
    set(inode.ctime, offsetof(pmem::InodeRecord, ctime_ns));
  }
  medium.fence();
  if (!known) inode.times_fenced.store(now, std::memory_order_release);
}

void Inodes::note_written(Inode& inode) {
  Doorbells* const bells = inode.doorbells.load(std::memory_order_acquire);
  if (bells == nullptr || health_.read_only() || health_.is_shut_down()) return;
  const std::int64_t said = bells->take_written();
  if (said == 0) return;
  const std::int64_t when = std::min(said, file_time_now());
  const MutexLock guard(inode.times_mutex);
  const auto set = [&](std::atomic<std::int64_t>& time, std::size_t place) {
    const std::int64_t old = time.load(std::memory_order_relaxed);
    // One that lies in the future somebody has set: a write ends it, as everywhere.
    if (old >= when && old <= file_time_now()) return;
    time.store(when, std::memory_order_relaxed);
    mount_.volume.medium().store_u64(inode.slot + ByteCount(place),
                                     static_cast<std::uint64_t>(when));
  };
  set(inode.mtime, offsetof(pmem::InodeRecord, mtime_ns));
  set(inode.ctime, offsetof(pmem::InodeRecord, ctime_ns));
}

bool Inodes::atime_is_due(const Inode& inode) const {
  if (mount_.options.atime == AtimeMode::noatime || health_.read_only()) return false;
  if ((inode.record.flags & pmem::kInodeNoAtime) != 0) return false;
  if (mount_.options.atime == AtimeMode::strictatime) return true;
  constexpr std::int64_t day = 24 * 3600 * kNanosecondsPerSecond;
  const std::int64_t old = inode.atime.load(std::memory_order_relaxed);
  return old <= inode.mtime.load(std::memory_order_relaxed) ||
         old <= inode.ctime.load(std::memory_order_relaxed) || file_time_now() - old >= day;
}

void Inodes::update_atime(Inode& inode) {
  if (!atime_is_due(inode)) return;
  const std::int64_t now = file_time_now();
  if (inode.atime.exchange(now, std::memory_order_relaxed) == now) return;
  // Not fenced: an access time may be lost in a crash, as everywhere.
  mount_.volume.medium().store_u64(inode.slot + ByteCount(offsetof(pmem::InodeRecord, atime_ns)),
                                   static_cast<std::uint64_t>(now));
}

bool Inodes::take_setid(Inode& inode, mode_t bits) {
  if ((inode.record.mode & bits) == 0) return false;
  inode.record.mode = static_cast<std::uint16_t>(inode.record.mode & ~bits);
  pages_.attributes_changed(inode.number);
  return true;
}

bool Inodes::is_dead(const Inode& inode) const {
  if (inode.record.links != 0 || inode.opens != 0 || !inode.extents || inode.disposed ||
      !health_.may_change()) {
    return false;
  }
  // Only at the unmount can there be any: of somebody who is stopped in the middle of a copy. The
  // next mount waits for it before it frees the file's blocks.
  const Doorbells* const bells = inode.doorbells.load(std::memory_order_acquire);
  return bells == nullptr || bells->quiet();
}

Inodes::Remains Inodes::dispose(Transaction& tx, Inode& inode) {
  Remains remains{.inode = inode.number, .blocks = {}, .policy = policies_.of(inode)};
  remains.blocks = stage_end(tx, mount_.volume, inode.number, inode.record, inode.map());
  inode.disposed = true;
  inode.directory.reset();
  inode.extents.emplace(mount_.volume.medium(), mount_.volume.allocator(), inode.number,
                        inode.slot);
  inode.record.blocks = 0;
  inode.record.extent_block = 0;
  inode.record.xattr_block = 0;
  inode.record.xattr_bytes = 0;
  return remains;
}

void Inodes::give_back(const Remains& remains, const TicketRef& asked) {
  if (remains.inode.value == 0) return;
  free_metadata(mount_.volume, remains.blocks.metadata);
  if (asked) gate_.detached(asked, remains.blocks.data);
  // In any case the gate learns that the file is no more.
  const std::span<const PoolRange> unasked =
      asked ? std::span<const PoolRange>() : remains.blocks.data;
  gate_.detached_unasked(unasked, remains.inode, remains.policy);
}

void Inodes::dispose_if_dead(Inode& inode) {
  {
    // At most closes there is nothing to do: they must not wait for those who read.
    const ReaderLock guard(inode.lock);
    if (inode.record.links != 0) return;
  }
  if (const Status loaded = load_extents(inode); !loaded) return;
  const WriterLock guard(inode.lock);
  if (!is_dead(inode)) return;
  Transaction tx;
  const Remains remains = dispose(tx, inode);
  // Nobody is told: the name that led here was acknowledged as gone before.
  static_cast<void>(health_.commit(tx));
  give_back(remains);
}

void Inodes::last_reference(Inode& inode) {
  pages_.forget(inode);
  dispose_if_dead(inode);
  const ReaderLock guard(inode.lock);
  if (inode.disposed) mount_.volume.inodes().release(inode.number);
}

void Inodes::end_all() {
  root_ = InodeRef();
  table_.drain([this](Inode& inode) {
    inode.opens = 0;
    dispose_if_dead(inode);
    last_reference(inode);
  });
}

}  // namespace daxfs
