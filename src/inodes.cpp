// One inode: its indexes, attributes, and its end.
#include <mutex>
#include <shared_mutex>

#include "base/clock.h"
#include "blockmap/volume/detach.h"
#include "src/filesystem.h"

namespace daxfs {

Status Filesystem::load_extents(Inode& inode) {
  if (inode.extents_loaded.load(std::memory_order_acquire)) return {};
  const std::unique_lock guard(inode.lock);
  if (inode.extents) return {};
  auto map = ExtentMap::load(mount_.volume.medium(), mount_.volume.allocator(), inode.number,
                             inode.slot, mount_.volume.data_area());
  if (!map) return std::unexpected(map.error());
  inode.extents.emplace(std::move(*map));
  inode.extents_loaded.store(true, std::memory_order_release);
  return {};
}

Status Filesystem::load_directory(Inode& inode) {
  if (!inode.is_directory()) return fail(ENOTDIR);
  if (const Status loaded = load_extents(inode); !loaded) return loaded;
  {
    const std::shared_lock guard(inode.lock);
    if (inode.directory) return {};
  }
  const std::unique_lock guard(inode.lock);
  if (inode.directory) return {};
  auto directory = Directory::load(mount_.volume.medium(), mount_.volume.allocator(), inode.number,
                                   *inode.extents);
  if (!directory) return std::unexpected(directory.error());
  inode.directory = std::move(*directory);
  return {};
}

void Filesystem::fill_attributes(const Inode& inode, struct stat& out) const {
  const pmem::InodeRecord& record = inode.record;
  out = {};
  out.st_ino = inode.number.value;
  out.st_mode = record.mode;
  out.st_nlink = record.links;
  out.st_uid = record.uid;
  out.st_gid = record.gid;
  out.st_rdev = record.rdev;
  out.st_size = static_cast<off_t>(record.size);
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  out.st_blocks = static_cast<blkcnt_t>(record.blocks * (kBlockSize / 512));
  out.st_atim = to_timespec(inode.atime.load(std::memory_order_relaxed));
  out.st_mtim = to_timespec(inode.mtime.load(std::memory_order_relaxed));
  out.st_ctim = to_timespec(inode.ctime.load(std::memory_order_relaxed));
}

void Filesystem::sync_times(Inode& inode) {
  inode.record.atime_ns = inode.atime.load(std::memory_order_relaxed);
  inode.record.mtime_ns = inode.mtime.load(std::memory_order_relaxed);
  inode.record.ctime_ns = inode.ctime.load(std::memory_order_relaxed);
}

void Filesystem::stage(Transaction& tx, Inode& inode) {
  sync_times(inode);
  mount_.volume.inodes().stage(tx, inode.number, inode.record);
}

// Writers of one file meet here. A time that another one has stored is not durable before that
// one's fence, so only then it need not be stored again: a fence of ours does nothing for its
// flush. And the clock is read with the mutex held, so that no older time reaches the medium behind
// a newer one that somebody was promised. Both cost something only once a tick.
void Filesystem::touch(Inode& inode) {
  Medium& medium = mount_.volume.medium();
  std::int64_t now = file_time_now();
  const bool known = inode.times_fenced.load(std::memory_order_acquire) == now &&
                     inode.mtime.load(std::memory_order_relaxed) == now &&
                     inode.ctime.load(std::memory_order_relaxed) == now;
  if (!known) {
    const std::lock_guard guard(inode.times_mutex);
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

void Filesystem::update_atime(Inode& inode) {
  if (mount_.options.atime == AtimeMode::noatime || mount_.options.read_only) return;
  const std::int64_t now = file_time_now();
  const std::int64_t old = inode.atime.load(std::memory_order_relaxed);
  if (mount_.options.atime == AtimeMode::relatime) {
    constexpr std::int64_t day = 24 * 3600 * kNanosecondsPerSecond;
    const bool due = old <= inode.mtime.load(std::memory_order_relaxed) ||
                     old <= inode.ctime.load(std::memory_order_relaxed) || now - old >= day;
    if (!due) return;
  }
  if (inode.atime.exchange(now, std::memory_order_relaxed) == now) return;
  // Not fenced: an access time may be lost in a crash, as everywhere.
  mount_.volume.medium().store_u64(inode.slot + ByteCount(offsetof(pmem::InodeRecord, atime_ns)),
                                   static_cast<std::uint64_t>(now));
}

bool Filesystem::has_privileges(const Inode& inode) {
  constexpr mode_t with_execution = S_ISGID | S_IXGRP;
  return (inode.record.mode & S_ISUID) != 0 ||
         (inode.record.mode & with_execution) == with_execution;
}

void Filesystem::drop_setid_bits(Inode& inode) {
  // A setgid bit without group execution marks mandatory locking, not privilege: it stays.
  inode.record.mode = static_cast<std::uint16_t>(inode.record.mode & ~S_ISUID);
  if ((inode.record.mode & S_IXGRP) != 0) {
    inode.record.mode = static_cast<std::uint16_t>(inode.record.mode & ~S_ISGID);
  }
}

bool Filesystem::is_dead(const Inode& inode) const {
  return inode.record.links == 0 && inode.opens == 0 && inode.extents && !inode.disposed &&
         !mount_.options.read_only && !stopped_;
}

Filesystem::Remains Filesystem::dispose(Transaction& tx, Inode& inode) {
  Remains remains{.inode = inode.number, .blocks = {}, .policy = policy_of(inode)};
  remains.blocks = stage_end(tx, mount_.volume, inode.number, inode.record, *inode.extents);
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

void Filesystem::give_back(const Remains& remains) {
  free_metadata(mount_.volume, remains.blocks.metadata);
  gate_.detached_unasked(remains.blocks.data, remains.inode, remains.policy);
}

void Filesystem::dispose_if_dead(Inode& inode) {
  {
    // At most closes there is nothing to do: they must not wait for those who read.
    const std::shared_lock guard(inode.lock);
    if (inode.record.links != 0) return;
  }
  if (const Status loaded = load_extents(inode); !loaded) return;
  const std::unique_lock guard(inode.lock);
  if (!is_dead(inode)) return;
  Transaction tx;
  const Remains remains = dispose(tx, inode);
  // Nobody is told: the name that led here was acknowledged as gone before.
  static_cast<void>(commit(tx));
  give_back(remains);
}

void Filesystem::last_reference(Inode& inode) {
  given_.forget(inode.number);
  dispose_if_dead(inode);
  if (inode.disposed) mount_.volume.inodes().release(inode.number);
}

Result<InodeNumber> Filesystem::new_inode(pmem::InodeRecord& record, mode_t mode, dev_t rdev,
                                          const Inode& parent, const Caller& caller) {
  // It may have had to make room for it on the medium.
  const auto number = acknowledge(mount_.volume.inodes().allocate());
  if (!number) return number;
  const std::int64_t now = file_time_now();
  const bool inherit_group = (parent.record.mode & S_ISGID) != 0;
  record = {};
  record.generation = mount_.volume.inodes().next_generation(*number);
  record.links = S_ISDIR(mode) ? 2 : 1;
  record.mode = static_cast<std::uint16_t>(mode);
  if (inherit_group && S_ISDIR(mode))
    record.mode = static_cast<std::uint16_t>(record.mode | S_ISGID);
  record.uid = caller.uid;
  record.gid = inherit_group ? parent.record.gid : caller.gid;
  record.rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0;
  record.parent = S_ISDIR(mode) ? parent.number.value : 0;
  record.atime_ns = record.mtime_ns = record.ctime_ns = record.btime_ns = now;
  return number;
}

Result<struct stat> Filesystem::attributes(InodeNumber number) {
  const auto inode = cache_.get(number);
  if (!inode) return std::unexpected(inode.error());
  struct stat out {};
  const std::shared_lock guard((*inode)->lock);
  fill_attributes(**inode, out);
  return out;
}

struct statvfs Filesystem::statistics() const {
  struct statvfs out {};
  const BlockCount free = mount_.volume.allocator().free_blocks();
  const std::uint64_t used_inodes = mount_.volume.inodes().used();
  // Every free block can become inodes, as in XFS.
  const std::uint64_t free_inodes = mount_.volume.inodes().capacity() - used_inodes +
                                    free.value / pmem::kChunkBlocks * pmem::kChunkInodes;
  out.f_bsize = out.f_frsize = kBlockSize;
  out.f_blocks = mount_.volume.data_blocks().value;
  out.f_bfree = out.f_bavail = free.value;
  out.f_files = used_inodes + free_inodes;
  out.f_ffree = out.f_favail = free_inodes;
  out.f_namemax = pmem::kMaxName;
  return out;
}

}  // namespace daxfs
