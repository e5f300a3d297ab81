#include "src/xattrs.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <mutex>
#include <shared_mutex>

#include "base/clock.h"

namespace daxfs {
namespace {

// What exec(2) gives the process that runs the file (capabilities(7)).
const std::string kCapability = "security.capability";

constexpr std::size_t kMaxValue = 64 << 10;  // XATTR_SIZE_MAX
constexpr std::size_t kMaxNames = 64 << 10;  // XATTR_LIST_MAX

}  // namespace

Status Xattrs::check_name(std::string_view name) const {
  if (name.size() > pmem::kMaxName) return fail(ERANGE);
  for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (name == prefix) return fail(EINVAL);
    if (name.starts_with(prefix)) return {};
  }
  if (is_acl(name) && mount_.options.acl) return {};
  return fail(EOPNOTSUPP);
}

Result<std::string> Xattrs::get(InodeNumber number, const std::string& name) {
  if (const Status ok = check_name(name); !ok) return std::unexpected(ok.error());
  const auto inode = inodes_.get(number);
  if (!inode) return std::unexpected(inode.error());
  const ReaderLock guard((*inode)->lock);
  if ((*inode)->record.xattr_block == 0) return fail(ENODATA);
  const auto attributes =
      load_xattrs(mount_.volume.medium(), number, (*inode)->record, mount_.volume.data_area());
  if (!attributes) return std::unexpected(attributes.error());
  const auto found = attributes->find(name);
  if (found == attributes->end()) return fail(ENODATA);
  if (is_acl(name)) {
    const auto acl = Acl::parse(found->second);
    if (!acl || acl->empty()) return fail(EUCLEAN);
  }
  return found->second;
}

Result<std::vector<std::string>> Xattrs::list(InodeNumber number) {
  const auto inode = inodes_.get(number);
  if (!inode) return std::unexpected(inode.error());
  const ReaderLock guard((*inode)->lock);
  const auto attributes =
      load_xattrs(mount_.volume.medium(), number, (*inode)->record, mount_.volume.data_area());
  if (!attributes) return std::unexpected(attributes.error());
  std::vector<std::string> names;
  names.reserve(attributes->size());
  for (const auto& [name, value] : *attributes) {
    if (!is_acl(name) || mount_.options.acl) names.push_back(name);
  }
  return names;
}

Status Xattrs::change(InodeNumber number, const std::string& name, By by, const Change& change) {
  if (const Status ok = health_.writable(); !ok) return ok;
  const auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  Inode& inode = **ref;
  std::vector<PoolRange> released;
  const WriterLock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  // (The write that follows to an immutable file is refused, too.)
  if (by == By::caller ? inode.is_protected() : inode.is_immutable()) return fail(EPERM);
  auto attributes =
      load_xattrs(mount_.volume.medium(), number, inode.record, mount_.volume.data_area());
  if (!attributes) return std::unexpected(attributes.error());
  pmem::InodeRecord record = inode.record;
  if (const Status changed = change(inode, record, *attributes); !changed) return changed;
  if (const Status stored = replace_xattrs(mount_.volume.medium(), mount_.volume.allocator(),
                                           number, record, *attributes, released);
      !stored) {
    return stored;
  }
  inode.record = record;
  inode.ctime = file_time_now();
  const Status committed = inodes_.commit(inode);
  if (Policies::is_policy(name)) policies_.changed(inode, inodes_.path_of(number));
  for (const PoolRange& range : released) (void)mount_.volume.allocator().free(range);
  return committed;
}

Status Xattrs::set(InodeNumber number, const std::string& name, std::string_view value, int flags,
                   const Caller& caller, bool drop_setgid) {
  if (const Status ok = check_name(name); !ok) return ok;
  if (is_acl(name)) {
    if (value.size() > kMaxAclBytes) return fail(E2BIG);
    const auto acl = Acl::parse(value);
    if (!acl) return std::unexpected(acl.error());
    return acl->empty() ? remove_acl(number, name) : set_acl(number, name, *acl, drop_setgid);
  }
  if (value.size() > kMaxValue) return fail(E2BIG);
  return change(number, name, By::caller, [&](Inode& inode, auto&, XattrMap& attributes) -> Status {
    if (Policies::is_policy(name)) {
      if (const Status may = policies_.check(inode, value, caller); !may) return may;
    }
    const bool exists = attributes.contains(name);
    if (exists && (flags & XATTR_CREATE) != 0) return fail(EEXIST);
    if (!exists && (flags & XATTR_REPLACE) != 0) return fail(ENODATA);
    std::size_t names = name.size() + 1;
    for (const auto& [other, unused] : attributes) names += other.size() + 1;
    if (!exists && names > kMaxNames) return fail(ENOSPC);
    attributes[name] = value;
    if (name == kCapability) inode.capability = Inode::Capability::maybe;
    return {};
  });
}

Status Xattrs::set_acl(InodeNumber number, const std::string& name, const Acl& acl,
                       bool drop_setgid) {
  const auto note_feature = [this] {
    return health_.acknowledge(mount_.volume.use_feature(pmem::kFeatureAcls));
  };
  return change(number, name, By::caller,
                [&](Inode& inode, pmem::InodeRecord& record, XattrMap& attributes) -> Status {
                  if (S_ISLNK(inode.type)) return fail(EOPNOTSUPP);
                  const bool standard = name == kDefaultAcl;
                  if (standard && !inode.is_directory()) return fail(EACCES);
                  const bool stored = standard || !acl.is_mode_only();
                  if (stored) {
                    if (const Status noted = note_feature(); !noted) return noted;
                    attributes[name] = acl.value();
                    (standard ? inode.may_have_default_acl : inode.may_have_acl) = true;
                  } else {
                    attributes.erase(name);
                  }
                  if (standard) return {};
                  mode_t mode = (record.mode & ~mode_t{ACCESSPERMS}) | acl.mode();
                  if (drop_setgid) mode &= ~mode_t{S_ISGID};
                  record.mode = static_cast<std::uint16_t>(mode);
                  return {};
                });
}

Status Xattrs::remove_acl(InodeNumber number, const std::string& name) {
  const Status removed =
      change(number, name, By::caller, [&](Inode&, auto&, XattrMap& attributes) -> Status {
        return attributes.erase(name) == 0 ? fail(ENODATA) : Status();
      });
  // Nobody who sets or removes lists cares whether there was one (as on ext4).
  return removed || removed.error().code != ENODATA ? removed : Status();
}

Status Xattrs::drop_capability(Inode& inode) {
  if (inode.capability.load(std::memory_order_relaxed) == Inode::Capability::none) [[likely]]
    return {};
  const Status dropped = change(
      inode.number, kCapability, By::write, [](Inode& same, auto&, XattrMap& attributes) -> Status {
        same.capability = Inode::Capability::none;
        return attributes.erase(kCapability) == 0 ? fail(ENODATA) : Status();
      });
  if (dropped || dropped.error().code != ENOSPC) return {};
  inode.capability = Inode::Capability::maybe;
  return dropped;
}

Status Xattrs::remove(InodeNumber number, const std::string& name, const Caller& caller) {
  if (const Status ok = check_name(name); !ok) return ok;
  if (is_acl(name)) return remove_acl(number, name);
  return change(number, name, By::caller, [&](Inode& inode, auto&, XattrMap& attributes) -> Status {
    if (Policies::is_policy(name)) {
      if (const Status may = policies_.check(inode, {}, caller); !may) return may;
    }
    if (attributes.erase(name) == 0) return fail(ENODATA);
    if (name == kCapability) inode.capability = Inode::Capability::removed;
    return {};
  });
}

}  // namespace daxfs
