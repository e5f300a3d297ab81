#include "src/names.h"

#include <dirent.h>

#include <mutex>
#include <shared_mutex>
#include <span>
#include <vector>

#include "base/clock.h"

namespace daxfs {
namespace {

Status check_name(std::string_view name) {
  if (name.size() > pmem::kMaxName) return fail(ENAMETOOLONG);
  if (name.empty() || name == "." || name == "..") return fail(EINVAL);
  if (name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos)
    return fail(EINVAL);
  return {};
}

constexpr std::uint32_t kMaxLinks = 1u << 31;

}  // namespace

Result<Entry> Names::lookup(InodeNumber parent_number, std::string_view name) {
  if (name.size() > pmem::kMaxName) return fail(ENAMETOOLONG);
  const auto parent = inodes_.get(parent_number);
  if (!parent) return std::unexpected(parent.error());
  // What a file handle (open_by_handle_at, NFS) names and the kernel has forgotten is looked up as
  // its own "."; so it need not be a directory.
  if (name == ".") {
    {
      const ReaderLock guard((*parent)->lock);
      if ((*parent)->record.links == 0) return fail(ESTALE);
    }
    return entry_for(**parent);
  }
  if (const Status loaded = inodes_.load_directory(**parent); !loaded)
    return std::unexpected(loaded.error());
  InodeRef inode;
  {
    // The reference is taken under the directory's lock: the number cannot pass to another file
    // meanwhile.
    const ReaderLock guard((*parent)->lock);
    const auto named = [&]() -> Result<InodeRef> {
      (*parent)->lock.assert_held_shared();
      if (name == "..") return inodes_.get(InodeNumber{(*parent)->record.parent});
      // A directory that was removed since it was loaded has no index any more.
      if ((*parent)->record.links == 0) return fail(ENOENT);
      const auto entry = (*parent)->directory->find(name);
      if (!entry) return fail(ENOENT);
      return inodes_.child(parent_number, entry->inode);
    };
    auto ref = named();
    if (!ref) return std::unexpected(ref.error());
    inode = std::move(*ref);
  }
  if (name != "..") inodes_.set_name(*inode, parent_number, name);
  return entry_for(*inode);
}

Entry Names::entry_for(Inode& inode) {
  Entry entry{.inode = inode.number};
  {
    const ReaderLock guard(inode.lock);
    // The kernel has made the root itself, with generation 0, and takes another one for another
    // inode (a directory's ".." may be the root).
    entry.generation = inode.number == kRootInode ? 0 : inode.record.generation;
    inode.fill_attributes(entry.attributes);
  }
  inodes_.add_lookup(inode);
  return entry;
}

Result<Entry> Names::entry_of(InodeNumber number, InodeNumber parent, std::string_view name) {
  const auto inode = inodes_.child(parent, number);
  if (!inode) return std::unexpected(inode.error());
  inodes_.set_name(**inode, parent, name);
  return entry_for(**inode);
}

Result<Entry> Names::make_node(InodeNumber parent, std::string_view name, mode_t mode, dev_t rdev,
                               const Caller& caller) {
  if (!S_ISREG(mode) && !S_ISCHR(mode) && !S_ISBLK(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
    return fail(EINVAL);
  return make(parent, name, mode, rdev, {}, caller);
}

Result<Entry> Names::make_directory(InodeNumber parent, std::string_view name, mode_t mode,
                                    const Caller& caller) {
  return make(parent, name, S_IFDIR | (mode & 07777), 0, {}, caller);
}

Result<Entry> Names::make_symlink(InodeNumber parent, std::string_view name,
                                  std::string_view target, const Caller& caller) {
  if (target.empty()) return fail(ENOENT);
  if (target.size() >= kBlockSize) return fail(ENAMETOOLONG);
  return make(parent, name, S_IFLNK | 0777, 0, target, caller);
}

Result<Names::NewInode> Names::new_inode(mode_t mode, dev_t rdev, Inode& parent,
                                         const Caller& caller) {
  const auto inherited = acls_.inherit(parent, mode, caller.umask);
  if (!inherited) return std::unexpected(inherited.error());
  // It may have had to make room for it on the medium.
  const auto number = health_.acknowledge(mount_.volume.inodes().allocate());
  if (!number) return std::unexpected(number.error());
  NewInode made{.number = *number, .record = {}, .attributes = {}};
  if (!inherited->empty()) {
    auto written = WrittenXattrs::write(mount_.volume.medium(), mount_.volume.allocator(), *number,
                                        made.record, *inherited);
    if (!written) {
      forget_new(made);
      return std::unexpected(written.error());
    }
    made.attributes.emplace(std::move(*written));
  }
  pmem::InodeRecord& record = made.record;
  const std::int64_t now = file_time_now();
  const bool inherit_group = (parent.record.mode & S_ISGID) != 0;
  record.generation = mount_.volume.inodes().next_generation(*number);
  record.links = S_ISDIR(mode) ? 2 : 1;
  record.mode = static_cast<std::uint16_t>(mode);
  if (inherit_group && S_ISDIR(mode))
    record.mode = static_cast<std::uint16_t>(record.mode | S_ISGID);
  record.flags = static_cast<std::uint16_t>(parent.record.flags & pmem::kInheritedInodeFlags &
                                            pmem::allowed_inode_flags(mode));
  record.uid = caller.uid;
  record.gid = inherit_group ? parent.record.gid : caller.gid;
  record.rdev = S_ISCHR(mode) || S_ISBLK(mode) ? rdev : 0;
  record.parent = S_ISDIR(mode) ? parent.number.value : 0;
  record.atime_ns = record.mtime_ns = record.ctime_ns = record.btime_ns = now;
  return made;
}

void Names::forget_new(const NewInode& made) { mount_.volume.inodes().release(made.number); }

Result<Entry> Names::make(InodeNumber parent_number, std::string_view name, mode_t mode, dev_t rdev,
                          std::string_view target, const Caller& caller) {
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  if (const Status ok = check_name(name); !ok) return std::unexpected(ok.error());
  const auto parent = inodes_.get(parent_number);
  if (!parent) return std::unexpected(parent.error());
  Inode& directory = **parent;
  if (const Status loaded = inodes_.load_directory(directory); !loaded)
    return std::unexpected(loaded.error());

  WriterLock guard(directory.lock);
  if (directory.record.links == 0) return fail(ENOENT);
  if (directory.directory->find(name)) return fail(EEXIST);
  if (directory.is_immutable()) return fail(EPERM);
  if (S_ISDIR(mode) && directory.record.links >= kMaxLinks) return fail(EMLINK);

  auto made = new_inode(mode, rdev, directory, caller);
  if (!made) return std::unexpected(made.error());
  const InodeNumber number = made->number;
  pmem::InodeRecord& record = made->record;
  std::vector<PoolRange> content;
  if (!target.empty()) {
    if (const Status got = mount_.volume.allocator().allocate(BlockCount(1), PoolBlock(0), content);
        !got) {
      forget_new(*made);
      return std::unexpected(got.error());
    }
    mount_.volume.medium().write(offset_of(content[0].start), std::as_bytes(std::span(target)));
    mount_.volume.medium().fence();
    record.size = target.size();
    record.blocks = 1;
  }
  Transaction tx;
  if (const Status room = directory.directory->prepare_insert(tx, directory.record, name.size());
      !room) {
    for (const PoolRange& range : content) (void)mount_.volume.allocator().free(range);
    forget_new(*made);
    return std::unexpected(room.error());
  }

  if (made->attributes) made->attributes->show_in(record);
  const InodeRef inode = inodes_.adopt(number, record);  // outlives its guard
  inode->lock.assert_held();
  WriterLock inode_guard(inode->lock, std::adopt_lock);
  inode->extents.emplace(mount_.volume.medium(), mount_.volume.allocator(), number, inode->slot);
  inode->extents_loaded.store(true, std::memory_order_release);
  if (!content.empty()) {
    inode->map_to_change().insert(
        tx, {.file = FileBlock(0), .pool = content[0].start, .count = BlockCount(1)});
  }
  directory.directory->insert(tx, name, number, static_cast<std::uint8_t>(IFTODT(mode)));
  const std::int64_t now = record.ctime_ns;
  directory.mtime = now;
  directory.ctime = now;
  if (S_ISDIR(mode)) directory.record.links += 1;
  inodes_.stage(tx, directory);
  inodes_.stage(tx, *inode);
  const Status committed = health_.commit(tx);

  inodes_.set_name(*inode, parent_number, name);
  if (!committed) {
    inode_guard.unlock();
    guard.unlock();
    return std::unexpected(committed.error());
  }
  Entry entry{.inode = number, .generation = record.generation};
  inode->fill_attributes(entry.attributes);
  inodes_.add_lookup(*inode);
  inode_guard.unlock();
  return entry;
}

Result<Entry> Names::make_unnamed(InodeNumber parent_number, mode_t mode, bool linkable,
                                  const Caller& caller) {
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  const auto parent = inodes_.get(parent_number);
  if (!parent) return std::unexpected(parent.error());
  Inode& directory = **parent;
  if (!directory.is_directory()) return fail(ENOTDIR);

  InodeRef inode;  // outlives the guards
  std::optional<NewInode> made;
  {
    const ReaderLock guard(directory.lock);
    if (directory.record.links == 0) return fail(ENOENT);
    if (directory.is_immutable()) return fail(EPERM);
    auto got = new_inode(S_IFREG | (mode & 07777), 0, directory, caller);
    if (!got) return std::unexpected(got.error());
    made.emplace(std::move(*got));
    made->record.links = 0;  // to a mount after a crash it is an orphan
    if (made->attributes) made->attributes->show_in(made->record);
    inode = inodes_.adopt(made->number, made->record);
  }
  {
    inode->lock.assert_held();
    const WriterLock guard(inode->lock, std::adopt_lock);
    inode->extents.emplace(mount_.volume.medium(), mount_.volume.allocator(), inode->number,
                           inode->slot);
    inode->extents_loaded.store(true, std::memory_order_release);
    inode->linkable = linkable;
    if (const Status committed = inodes_.commit(*inode); !committed)
      return std::unexpected(committed.error());
  }
  return entry_for(*inode);
}

Result<std::string> Names::read_symlink(InodeNumber number) {
  const auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  Inode& inode = **ref;
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return std::unexpected(loaded.error());
  const ReaderLock guard(inode.lock);
  if (!S_ISLNK(inode.record.mode)) return fail(EINVAL);
  const auto run = inode.map().run_at(FileBlock(0), BlockCount(1));
  if (!run.pool || inode.record.size >= kBlockSize) return fail(EUCLEAN);
  const auto* text = reinterpret_cast<const char*>(mount_.volume.medium().at(*run.pool));
  return std::string(text, inode.record.size);
}

Result<Entry> Names::link(InodeNumber number, InodeNumber parent_number, std::string_view name) {
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  if (const Status ok = check_name(name); !ok) return std::unexpected(ok.error());
  const auto parent = inodes_.get(parent_number);
  if (!parent) return std::unexpected(parent.error());
  const auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  Inode& directory = **parent;
  Inode& inode = **ref;
  if (const Status loaded = inodes_.load_directory(directory); !loaded)
    return std::unexpected(loaded.error());
  if (inode.is_directory()) return fail(EPERM);
  {
    const WriterLock parent_guard(directory.lock);
    const WriterLock guard(inode.lock);
    if (directory.record.links == 0) return fail(ENOENT);
    if (inode.record.links == 0 && (!inode.linkable || inode.disposed)) return fail(ENOENT);
    if (inode.record.links >= kMaxLinks) return fail(EMLINK);
    if (directory.directory->find(name)) return fail(EEXIST);
    if (directory.is_immutable() || inode.is_protected()) return fail(EPERM);
    Transaction tx;
    if (const Status room = directory.directory->prepare_insert(tx, directory.record, name.size());
        !room) {
      return std::unexpected(room.error());
    }
    directory.directory->insert(tx, name, number,
                                static_cast<std::uint8_t>(IFTODT(inode.record.mode)));
    const std::int64_t now = file_time_now();
    directory.mtime = now;
    directory.ctime = now;
    inode.ctime = now;
    inode.record.links += 1;
    inode.linkable = false;  // what has lost its last name gets no other
    inodes_.stage(tx, directory);
    inodes_.stage(tx, inode);
    const Status committed = health_.commit(tx);
    inodes_.set_name(inode, parent_number, name);
    if (!committed) return std::unexpected(committed.error());
  }
  return entry_for(inode);
}

Status Names::unlink(InodeNumber parent, std::string_view name) {
  return remove_name(parent, name, false);
}

Status Names::remove_directory(InodeNumber parent, std::string_view name) {
  if (name == ".") return fail(EINVAL);
  if (name == "..") return fail(ENOTEMPTY);
  return remove_name(parent, name, true);
}

Status Names::remove_name(InodeNumber parent_number, std::string_view name, bool of_directory) {
  if (const Status ok = health_.writable(); !ok) return ok;
  const auto parent = inodes_.get(parent_number);
  if (!parent) return std::unexpected(parent.error());
  Inode& directory = **parent;
  if (const Status loaded = inodes_.load_directory(directory); !loaded) return loaded;
  std::vector<PoolRange> released;
  InodeRef victim;
  // No rename may give the victim a child, or move it, between the look and the removal: its own
  // lock and the parent's see to that.
  WriterLock parent_guard(directory.lock);
  if (directory.record.links == 0) return fail(ENOENT);
  const auto entry = directory.directory->find(name);
  if (!entry) return fail(ENOENT);
  auto ref = inodes_.child(parent_number, entry->inode);
  if (!ref) return std::unexpected(ref.error());
  victim = std::move(*ref);
  if (victim->is_directory() != of_directory) return fail(of_directory ? ENOTDIR : EISDIR);
  if (of_directory) {
    if (const Status loaded = inodes_.load_directory(*victim); !loaded) return loaded;
  } else {
    // With damaged extents it still loses its name, and stays an orphan for fsck to look at.
    static_cast<void>(inodes_.load_extents(*victim));
  }
  const WriterLock guard(victim->lock);
  // More names than its count says: others have taken its last one.
  if (victim->record.links == 0) return fail(EUCLEAN);
  if (directory.is_protected() || victim->is_protected()) return fail(EPERM);
  if (of_directory && !victim->directory->empty()) return fail(ENOTEMPTY);
  Transaction tx;
  directory.directory->remove(tx, directory.record, name, released);
  const std::int64_t now = file_time_now();
  directory.mtime = now;
  directory.ctime = now;
  victim->ctime = now;
  victim->record.links = of_directory ? 0 : victim->record.links - 1;
  if (of_directory) directory.record.links -= 1;
  inodes_.stage(tx, directory);
  Inodes::Remains remains;
  if (inodes_.is_dead(*victim)) {
    remains = inodes_.dispose(tx, *victim);
  } else {
    inodes_.stage(tx, *victim);
  }
  const Status committed = health_.commit(tx);
  inodes_.clear_name(*victim, parent_number, name);
  for (const PoolRange& range : released) (void)mount_.volume.allocator().free(range);
  parent_guard.unlock();
  inodes_.give_back(remains);
  return committed;
}

Status Names::read_directory(InodeNumber number, std::uint64_t cookie, const Visit& visit) {
  const auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  Inode& inode = **ref;
  if (const Status loaded = inodes_.load_directory(inode); !loaded) return loaded;
  const ReaderLock guard(inode.lock);
  if (inode.record.links == 0) return {};  // removed, but still somebody's working directory
  inodes_.update_atime(inode);
  if (cookie < 1 && !visit({number, DT_DIR, ".", 1})) return {};
  if (cookie < 2 && !visit({InodeNumber{inode.record.parent}, DT_DIR, "..", 2})) return {};
  std::uint64_t at = cookie <= 2 ? 0 : cookie;
  while (const auto entry = inode.directory->next(at)) {
    if (!visit({entry->inode, entry->type, entry->name, entry->cookie})) return {};
    at = entry->cookie;
  }
  return {};
}

}  // namespace daxfs
