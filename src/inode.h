// An inode in DRAM, and the table of those that are in use.
//
// An inode is in the table while the kernel knows its number (lookups), while it is open, or while
// an operation works on it; each of these is a reference. When the last one goes it leaves the
// table, and if no name is left either, its slot on the medium becomes free.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/fair_shared_mutex.h"
#include "base/mutex.h"
#include "base/require.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/directory.h"
#include "blockmap/extent_map.h"
#include "blockmap/format.h"
#include "blockmap/volume/volume.h"
#include "lease/policy.h"

namespace daxfs {

class Doorbells;

inline constexpr std::uint64_t kMaxFileBytes = INT64_MAX;

// The order of its lock among inodes: directories, ancestors first; then others, ascending numbers.
// Among all locks: src/README.md, Locks. Held shared by reads and in-place writes for
// as long as they touch the blocks, so holding it exclusively means that no I/O of the daemon is in
// flight on this file.
class Inode {
 public:
  Inode(InodeNumber inode_number, PoolOffset inode_slot, const pmem::InodeRecord& from)
      : number(inode_number),
        slot(inode_slot),
        type(from.mode & S_IFMT),
        generation(from.generation),
        parent(from.parent),
        record(from),
        capability(from.xattr_block != 0 ? Capability::maybe : Capability::none),
        may_have_acl(from.xattr_block != 0),
        may_have_default_acl(from.xattr_block != 0 && S_ISDIR(from.mode)),
        atime(from.atime_ns),
        mtime(from.mtime_ns),
        ctime(from.ctime_ns) {}

  const InodeNumber number;
  const PoolOffset slot;
  // What of the record never changes: no lock needed.
  const mode_t type;
  const std::uint32_t generation;

  // Of a directory: record.parent, for those who have only the lock of a directory that names it.
  // Changes with that lock, its own and the new parent's held.
  std::atomic<std::uint64_t> parent;

  FairSharedMutex lock;

  pmem::InodeRecord record GUARDED_BY(lock);  // its three times are stale: see below
  // The extended attribute user.daxfs.pin_policy: not read yet, none, or the file's own policy.
  std::optional<std::optional<PinPolicy>> pin_policy GUARDED_BY(lock);
  // There may be an attribute security.capability, which the next write takes away.
  // `removed`: by name, as the kernel does before a write, and nothing was changed since.
  enum class Capability : std::uint8_t { none, maybe, removed };
  std::atomic<Capability> capability;
  // There may be an access control list, which chmod(2) changes; and a default one, which new files
  // in a directory inherit (acls.h).
  std::atomic<bool> may_have_acl;
  std::atomic<bool> may_have_default_acl;
  // It was made without a name, and may be given a first one (Names::make_unnamed()).
  bool linkable GUARDED_BY(lock) = false;
  // Unlinked, closed, its slot on the medium empty: only the number is still taken. Nothing may be
  // stored to the slot any more.
  bool disposed GUARDED_BY(lock) = false;

  // Built on first use: Inodes::load_extents(), load_directory().
  std::optional<ExtentMap> extents GUARDED_BY(lock);
  const ExtentMap& map() const REQUIRES_SHARED(lock) {
    DAXFS_REQUIRE(extents.has_value(), "inode {}: its extents were not loaded", number.value);
    return *extents;
  }
  ExtentMap& map_to_change() REQUIRES(lock) {
    DAXFS_REQUIRE(extents.has_value(), "inode {}: its extents were not loaded", number.value);
    return *extents;
  }
  std::atomic<bool> extents_loaded{false};
  std::unique_ptr<Directory> directory GUARDED_BY(lock);

  // In-place writers hold the lock shared, so the times are atomics, each backed by an 8-byte store
  // on the medium.
  std::atomic<std::int64_t> atime;
  std::atomic<std::int64_t> mtime;
  std::atomic<std::int64_t> ctime;
  // Guards the storing of mtime and ctime with `lock` held shared (Inodes::touch()); times_fenced
  // is the last time that is durable. Under the mutex only the medium is called.
  Mutex times_mutex ABSL_ACQUIRED_AFTER(lock);
  std::atomic<std::int64_t> times_fenced{INT64_MIN};

  // Bytes [grown_from, grown_to) were added without the kernel's doing, so it may still take
  // grown_from for the end of the file: there a pin has made it longer, or an append has gone
  // elsewhere than the kernel thought.
  std::uint64_t grown_from GUARDED_BY(lock) = 0;
  std::uint64_t grown_to GUARDED_BY(lock) = 0;

  std::atomic<std::uint32_t> opens{0};
  // Long and short pins taken for writing: new handles bypass the page cache while there are any.
  std::atomic<std::uint32_t> write_pins{0};
  // The kernel may have cached pages of it (read or written through a handle that uses the page
  // cache).
  std::atomic<bool> page_cached{false};
  // So many requests have its pages dropped just now.
  std::atomic<std::uint32_t> drops{0};
  // So many truncates wait at the gate: meanwhile the kernel cannot drop a dirty page.
  std::atomic<std::uint32_t> truncates{0};
  // With cache=writeback: so many open files through which the kernel may keep what is written
  // without telling; and how long the file has become without the kernel's doing, which it has to
  // be told, since it believes no attributes (0: nothing to tell).
  std::atomic<std::uint32_t> cached_writers{0};
  std::atomic<std::uint64_t> end_to_tell{0};
  // Some of what the kernel has kept did not fit, and no write(2) has been told so.
  std::atomic<bool> lost_for_space{false};
  // What the kernel has cached is older than the medium: the next open must drop it.
  std::atomic<bool> cache_stale{false};

  // Where clients count the copies that they make themselves (src/direct_access.h). Null: nobody
  // ever has. Set once; the owner before, with `lock` held exclusively.
  std::shared_ptr<Doorbells> doorbells_owner;
  std::atomic<Doorbells*> doorbells{nullptr};
  bool has_attached() const;  // there is a doorbell

  bool is_directory() const { return S_ISDIR(type); }
  bool is_regular() const { return S_ISREG(type); }
  // chattr(1). The kernel does not know; so whatever changes an inode asks.
  bool is_immutable() const REQUIRES_SHARED(lock) {
    return (record.flags & pmem::kInodeImmutable) != 0;
  }
  bool is_append_only() const REQUIRES_SHARED(lock) {
    return (record.flags & pmem::kInodeAppendOnly) != 0;
  }
  // Either: it keeps its names, owner, mode, attributes, and what it has.
  bool is_protected() const REQUIRES_SHARED(lock) {
    return (record.flags & (pmem::kInodeImmutable | pmem::kInodeAppendOnly)) != 0;
  }

  void fill_attributes(struct stat& out) const REQUIRES_SHARED(lock);
  // The record's times, from the atomics.
  void sync_times() REQUIRES(lock);
  // The set-user-id and set-group-id bits that give whoever runs it something.
  mode_t privileges() const REQUIRES_SHARED(lock);
  // It has become longer than `from`, or is `size` bytes long now, without the kernel's doing.
  void note_growth(std::uint64_t from) REQUIRES(lock);
  void note_end(std::uint64_t size) REQUIRES(lock);
  // What was to be appended at a former end has been appended here.
  void note_append() REQUIRES(lock);
  // Whether the kernel may take this for the end of the file though the file is longer.
  bool may_be_former_end(FileOffset offset) const REQUIRES_SHARED(lock) {
    return offset.value >= grown_from && offset.value < grown_to;
  }
};

class InodeTableCache;

// Keeps an inode in the table.
class InodeRef {
 public:
  InodeRef() = default;
  // Takes over one reference.
  InodeRef(InodeTableCache* cache, Inode* inode) : cache_(cache), inode_(inode) {}
  InodeRef(InodeRef&& other) noexcept
      : cache_(other.cache_), inode_(std::exchange(other.inode_, nullptr)) {}
  InodeRef& operator=(InodeRef&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(inode_, other.inode_);
    return *this;
  }
  ~InodeRef();

  Inode* operator->() const { return inode_; }
  Inode& operator*() const { return *inode_; }
  explicit operator bool() const { return inode_ != nullptr; }

 private:
  InodeTableCache* cache_ = nullptr;
  Inode* inode_ = nullptr;
};

// Thread-safe.
class InodeTableCache {
 public:
  // Called without locks for an inode that nobody refers to any more (its object is about to go).
  using LastReference = std::function<void(Inode&)>;

  InodeTableCache(Volume& volume, LastReference on_last_reference);
  ~InodeTableCache();

  // The inode, read from the medium if it is not in the table. ESTALE for numbers that are no
  // inode.
  Result<InodeRef> get(InodeNumber number);
  // A new inode that was just made and whose slot is not yet committed: its lock is held when this
  // returns, before anybody sees it.
  InodeRef adopt(InodeNumber number, const pmem::InodeRecord& record);
  // Calls `look` unless the inode is in the table; nobody puts it there meanwhile.
  bool if_absent(InodeNumber number, absl::FunctionRef<void()> look);

  // The kernel's own references (FUSE lookup counts).
  void add_lookups(const Inode& inode, std::uint64_t count);
  // Takes so many references away, at most those that there are; with the last one the inode goes.
  void drop(InodeNumber number, std::uint64_t count);

  // At unmount: empties the table, handing every inode to `last`.
  void drain(const std::function<void(Inode&)>& last);

  // One of its names, for people (reports).
  void set_name_hint(const Inode& inode, InodeNumber parent, std::string_view name);
  // Forgets the hint if it says this name.
  void clear_name_hint(const Inode& inode, InodeNumber parent, std::string_view name);
  struct NameHint {
    InodeNumber parent;
    std::string name;  // empty: none known
  };
  NameHint name_hint(InodeNumber number);

 private:
  struct Entry {
    std::unique_ptr<Inode> inode;
    std::uint64_t references = 0;
    NameHint name{};
  };
  struct Shard {
    Mutex mutex;  // taken before the lock of the volume's inode table
    absl::flat_hash_map<std::uint64_t, Entry> inodes GUARDED_BY(mutex);
  };
  static constexpr std::size_t kShards = 16;

  Shard& shard_of(InodeNumber number) { return shards_[number.value % kShards]; }

  Volume& volume_;
  LastReference on_last_reference_;
  std::array<Shard, kShards> shards_;
};

}  // namespace daxfs
