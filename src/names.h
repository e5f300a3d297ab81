// Names: lookup, creating, linking, removing, listing. (renames.h has rename.)
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/xattr.h"
#include "src/acls.h"
#include "src/callers.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"

namespace daxfs {

// What a name turned out to be. The caller got one lookup reference to the inode (forget() gives it
// back).
struct Entry {
  InodeNumber inode;
  std::uint32_t generation = 0;
  struct stat attributes {};
};

// Thread-safe. Takes the lock of the directory, and under it that of what the name stands for.
// Changes are atomic and durable on return. Errors of all: ENOTDIR, ENAMETOOLONG, ESTALE; of
// changes: EROFS, EIO, ENOSPC, EPERM (of what its flags protect).
class Names {
 public:
  Names(const Mount& mount, Health& health, Inodes& inodes, Acls& acls)
      : mount_(mount), health_(health), inodes_(inodes), acls_(acls) {}

  Result<Entry> lookup(InodeNumber parent, std::string_view name);
  void forget(InodeNumber inode, std::uint64_t lookups) { inodes_.forget(inode, lookups); }

  // mode carries the type; the directory's default access control list, or else the caller's umask,
  // takes bits away. rdev for device nodes. EEXIST, ENOENT (the directory was removed), EMLINK.
  Result<Entry> make_node(InodeNumber parent, std::string_view name, mode_t mode, dev_t rdev,
                          const Caller& caller);
  Result<Entry> make_directory(InodeNumber parent, std::string_view name, mode_t mode,
                               const Caller& caller);
  Result<Entry> make_symlink(InodeNumber parent, std::string_view name, std::string_view target,
                             const Caller& caller);
  // A file without a name, for the caller to open: it is gone at its last close, and after a crash.
  // `linkable`: unless link() has given it one. Mode, ENOENT as above.
  Result<Entry> make_unnamed(InodeNumber parent, mode_t mode, bool linkable, const Caller& caller);
  Result<std::string> read_symlink(InodeNumber inode);
  Result<Entry> link(InodeNumber inode, InodeNumber parent, std::string_view name);
  Status unlink(InodeNumber parent, std::string_view name);
  Status remove_directory(InodeNumber parent, std::string_view name);

  // What is about to be made in a directory: its number, and what its record is to be. Once that is
  // to be committed it shows its attributes; what is not to be is given back by forget_new().
  struct NewInode {
    InodeNumber number;
    pmem::InodeRecord record;
    std::optional<WrittenXattrs> attributes;  // inherited access control lists
  };
  Result<NewInode> new_inode(mode_t mode, dev_t rdev, Inode& parent, const Caller& caller)
      REQUIRES_SHARED(parent.lock);
  void forget_new(const NewInode& made);

  // Calls `visit` for the entries behind `cookie` ("." is 1, ".." is 2) until it returns false,
  // with the directory's lock held, shared.
  struct DirectoryEntry {
    InodeNumber inode;
    std::uint8_t type;
    std::string_view name;
    std::uint64_t cookie;
  };
  using Visit = std::function<bool(const DirectoryEntry&)>;
  Status read_directory(InodeNumber inode, std::uint64_t cookie, const Visit& visit);
  // The entry behind a name that read_directory() is just visiting; takes a lookup reference. Not
  // for "." and "..".
  Result<Entry> entry_of(InodeNumber inode, InodeNumber parent, std::string_view name);

 private:
  Entry entry_for(Inode& inode);  // takes a lookup reference
  Result<Entry> make(InodeNumber parent, std::string_view name, mode_t mode, dev_t rdev,
                     std::string_view target, const Caller& caller);
  Status remove_name(InodeNumber parent, std::string_view name, bool of_directory);

  const Mount& mount_;
  Health& health_;
  Inodes& inodes_;
  Acls& acls_;
};

}  // namespace daxfs
