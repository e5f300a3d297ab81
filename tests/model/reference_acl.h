// An access control list as simply as it can be said (acl(5)).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace daxfs::testing {

struct ReferenceAcl {
  unsigned owner = 0;
  unsigned group = 0;
  unsigned other = 0;
  std::optional<unsigned> mask;
  std::map<std::uint32_t, unsigned> users;  // with these there is a mask
  std::map<std::uint32_t, unsigned> groups;

  // "The group class": whose permissions are the file's group bits.
  unsigned& class_of_group() { return mask ? *mask : group; }
  mode_t mode() const { return owner << 6 | mask.value_or(group) << 3 | other; }
  bool is_mode_only() const { return !mask; }
  void chmod(mode_t mode) {
    owner = mode >> 6 & 7;
    class_of_group() = mode >> 3 & 7;
    other = mode & 7;
  }
  // Of a new file that is made with this mode.
  void limit(mode_t mode) { chmod(this->mode() & mode); }

  // The value of the extended attribute.
  std::string encoded() const {
    std::string out("\2\0\0\0", 4);
    const auto add = [&out](unsigned tag, unsigned bits, std::uint32_t id = UINT32_MAX) {
      out += static_cast<char>(tag);
      out += '\0';
      out += static_cast<char>(bits);
      out += '\0';
      for (int i = 0; i < 4; ++i) out += static_cast<char>(id >> 8 * i & 0xff);
    };
    add(1, owner);
    for (const auto& [id, bits] : users) add(2, bits, id);
    add(4, group);
    for (const auto& [id, bits] : groups) add(8, bits, id);
    if (mask) add(16, *mask);
    add(32, other);
    return out;
  }
};

}  // namespace daxfs::testing
