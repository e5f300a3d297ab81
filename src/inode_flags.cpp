#include "src/inode_flags.h"

#include <sys/stat.h>

#include "base/clock.h"
#include "src/doorbells.h"

namespace daxfs {
namespace {

constexpr std::uint16_t kProtecting = pmem::kInodeImmutable | pmem::kInodeAppendOnly;

}  // namespace

Result<std::uint16_t> InodeFlags::get(InodeNumber number) {
  const auto inode = inodes_.get(number);
  if (!inode) return std::unexpected(inode.error());
  const ReaderLock guard((*inode)->lock);
  return (*inode)->record.flags;
}

Status InodeFlags::set(InodeNumber number, std::uint16_t flags) {
  if (const Status ok = health_.writable(); !ok) return ok;
  const auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  Inode& inode = **ref;
  if ((flags & ~pmem::allowed_inode_flags(inode.type)) != 0) return fail(EOPNOTSUPP);
  const WriterLock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  // As on ext4: first it is made mutable.
  if (inode.is_immutable() && (flags & pmem::kInodeImmutable) != 0 && flags != inode.record.flags)
    return fail(EPERM);
  const int added = flags & ~inode.record.flags;
  const bool written_past_us = inode.write_pins != 0 || inode.has_attached();
  if ((added & kProtecting) != 0 && written_past_us) return fail(ETXTBSY);
  if ((added & kProtecting) != 0) {
    const auto used = mount_.volume.use_feature(pmem::kFeatureInodeFlags);
    if (const Status ok = health_.acknowledge(used); !ok) return ok;
  }
  inode.record.flags = flags;
  inode.ctime = file_time_now();
  const Status committed = inodes_.commit(inode);
  pages_.attributes_changed(number);
  return committed;
}

}  // namespace daxfs
