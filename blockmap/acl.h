// Access control lists (POSIX.1e), as Linux has them: in the form of the extended attributes that
// setfacl(1) writes and the kernel reads. Knows nothing of a medium.
//
// The rules are those of the kernel's fs/posix_acl.c, so that files get the modes and lists that
// they would get on any filesystem of the kernel.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace daxfs {

inline constexpr std::string_view kAccessAcl = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAcl = "system.posix_acl_default";
inline bool is_acl(std::string_view attribute) {
  return attribute == kAccessAcl || attribute == kDefaultAcl;
}

// The kernel reads no longer one from a FUSE filesystem: 511 entries.
inline constexpr std::size_t kMaxAclBytes = 4096;

class Acl {
 public:
  enum class Tag : std::uint16_t {
    user_owner = 0x01,
    user = 0x02,
    group_owner = 0x04,
    group = 0x08,
    mask = 0x10,
    other = 0x20,
  };
  struct Entry {
    Tag tag;
    std::uint16_t permissions;  // S_IRWXO
    std::uint32_t id;           // of a user or group
  };

  // EINVAL unless it is what the kernel takes for valid: entries in their order, an owner, a group
  // and others once each, at most one mask, and one if users or groups are named. No bytes and no
  // entries are a list that is empty().
  static Result<Acl> parse(std::string_view value);
  // As parse() takes it.
  std::string value() const;

  bool empty() const { return entries_.empty(); }
  const std::vector<Entry>& entries() const { return entries_; }

  // Of those that are not empty:
  // The nine bits that a file with this list has. Those of the group are the mask's, if there is
  // one.
  mode_t mode() const;
  // Says nothing that mode() does not say.
  bool is_mode_only() const;
  // After chmod(2).
  void set_mode(mode_t mode);
  // A directory's default list becomes that of a new file which is made with this mode: the list
  // keeps nothing that the mode has not, nor the mode what the list has not. Types and bits beyond
  // the nine stay.
  mode_t restrict_to(mode_t mode);

 private:
  Entry& group_class();  // whose permissions the mode shows as the group's

  std::vector<Entry> entries_;
};

// What is wrong with the lists of an inode that has these attributes and this mode.
struct AclFaults {
  std::vector<std::string_view> invalid;  // names of those that cannot be, or cannot be here
  bool out_of_step = false;               // the mode is to have the bits `mode`
  mode_t mode = 0;
  bool any() const { return !invalid.empty() || out_of_step; }
};
AclFaults find_acl_faults(const std::map<std::string, std::string>& attributes, mode_t mode);

}  // namespace daxfs
