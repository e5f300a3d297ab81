#include "blockmap/acl.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace daxfs {
namespace {

// All little-endian. Version 2, then entries.
constexpr std::uint32_t kVersion = 2;
struct StoredEntry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id;
};
static_assert(sizeof(StoredEntry) == 8);

constexpr std::uint32_t kNoId = UINT32_MAX;

constexpr unsigned shift_of_user = 6;
constexpr unsigned shift_of_group = 3;

bool is_named(Acl::Tag tag) { return tag == Acl::Tag::user || tag == Acl::Tag::group; }

// What may follow what: the owner, users, the owning group, groups, the mask, others.
bool in_order(const std::vector<Acl::Entry>& entries) {
  using Tag = Acl::Tag;
  bool owner = false, group = false, mask = false, other = false, named = false;
  for (const Acl::Entry& entry : entries) {
    if (entry.permissions > S_IRWXO || other) return false;
    if (is_named(entry.tag) && entry.id == kNoId) return false;
    switch (entry.tag) {
      case Tag::user_owner:
        if (owner) return false;
        owner = true;
        break;
      case Tag::user:
        if (!owner || group) return false;
        named = true;
        break;
      case Tag::group_owner:
        if (!owner || group) return false;
        group = true;
        break;
      case Tag::group:
        if (!group || mask) return false;
        named = true;
        break;
      case Tag::mask:
        if (!group || mask) return false;
        mask = true;
        break;
      case Tag::other:
        if (!group || (named && !mask)) return false;
        other = true;
        break;
      default:
        return false;
    }
  }
  return other;
}

}  // namespace

Result<Acl> Acl::parse(std::string_view value) {
  Acl acl;
  if (value.empty()) return acl;
  std::uint32_t version = 0;
  if (value.size() < sizeof version) return fail(EINVAL);
  std::memcpy(&version, value.data(), sizeof version);
  value.remove_prefix(sizeof version);
  if (version != kVersion || value.size() % sizeof(StoredEntry) != 0) return fail(EINVAL);
  acl.entries_.reserve(value.size() / sizeof(StoredEntry));
  for (; !value.empty(); value.remove_prefix(sizeof(StoredEntry))) {
    StoredEntry stored;
    std::memcpy(&stored, value.data(), sizeof stored);
    const auto tag = static_cast<Tag>(stored.tag);
    acl.entries_.push_back({tag, stored.permissions, is_named(tag) ? stored.id : kNoId});
  }
  if (!acl.empty() && !in_order(acl.entries_)) return fail(EINVAL);
  return acl;
}

std::string Acl::value() const {
  std::string out(reinterpret_cast<const char*>(&kVersion), sizeof kVersion);
  for (const Entry& entry : entries_) {
    const StoredEntry stored{static_cast<std::uint16_t>(entry.tag), entry.permissions, entry.id};
    out.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
  return out;
}

Acl::Entry& Acl::group_class() {
  const auto mask = std::ranges::find(entries_, Tag::mask, &Entry::tag);
  return mask != entries_.end() ? *mask
                                : *std::ranges::find(entries_, Tag::group_owner, &Entry::tag);
}

mode_t Acl::mode() const {
  mode_t mode = 0;
  for (const Entry& entry : entries_) {
    const mode_t bits = entry.permissions;
    if (entry.tag == Tag::user_owner) mode |= bits << shift_of_user;
    if (entry.tag == Tag::group_owner) mode |= bits << shift_of_group;
    if (entry.tag == Tag::other) mode |= bits;
    if (entry.tag == Tag::mask) mode = (mode & ~mode_t{S_IRWXG}) | bits << shift_of_group;
  }
  return mode;
}

bool Acl::is_mode_only() const {
  return std::ranges::none_of(
      entries_, [](const Entry& entry) { return is_named(entry.tag) || entry.tag == Tag::mask; });
}

void Acl::set_mode(mode_t mode) {
  const auto bits = [mode](unsigned shift) {
    return static_cast<std::uint16_t>(mode >> shift & S_IRWXO);
  };
  for (Entry& entry : entries_) {
    if (entry.tag == Tag::user_owner) entry.permissions = bits(shift_of_user);
    if (entry.tag == Tag::other) entry.permissions = bits(0);
  }
  group_class().permissions = bits(shift_of_group);
}

mode_t Acl::restrict_to(mode_t mode) {
  const auto both = [&mode](Entry& entry, unsigned shift) {
    entry.permissions = static_cast<std::uint16_t>(entry.permissions & mode >> shift);
    mode &= ~(mode_t{S_IRWXO} << shift) | mode_t{entry.permissions} << shift;
  };
  for (Entry& entry : entries_) {
    if (entry.tag == Tag::user_owner) both(entry, shift_of_user);
    if (entry.tag == Tag::other) both(entry, 0);
  }
  both(group_class(), shift_of_group);
  return mode;
}

AclFaults find_acl_faults(const std::map<std::string, std::string>& attributes, mode_t mode) {
  AclFaults faults;
  for (const auto& [name, value] : attributes) {
    if (!is_acl(name)) continue;
    const auto acl = Acl::parse(value);
    const bool belongs = name == kAccessAcl ? !S_ISLNK(mode) : S_ISDIR(mode);
    if (!acl || acl->empty() || !belongs || value.size() > kMaxAclBytes) {
      faults.invalid.emplace_back(name);
    } else if (name == kAccessAcl) {
      faults.mode = acl->mode();
      faults.out_of_step = faults.mode != (mode & ACCESSPERMS);
    }
  }
  return faults;
}

}  // namespace daxfs
