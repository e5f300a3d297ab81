#include "src/acls.h"

#include <sys/stat.h>

#include <utility>

namespace daxfs {
namespace {

Result<XattrMap> attributes_of(const Mount& mount, const Inode& inode) REQUIRES_SHARED(inode.lock) {
  return load_xattrs(mount.volume.medium(), inode.number, inode.record, mount.volume.data_area());
}

// An empty one if there is none.
Result<Acl> list_in(const XattrMap& attributes, std::string_view name) {
  const auto found = attributes.find(std::string(name));
  if (found == attributes.end()) return Acl();
  auto acl = Acl::parse(found->second);
  if (!acl || acl->empty()) return fail(EUCLEAN);
  return acl;
}

}  // namespace

Result<XattrMap> Acls::inherit(Inode& directory, mode_t& mode, mode_t umask) {
  XattrMap inherited;
  if (S_ISLNK(mode)) return inherited;
  umask &= ACCESSPERMS;
  if (!mount_.options.acl || !directory.may_have_default_acl.load(std::memory_order_relaxed)) {
    mode &= ~umask;
    return inherited;
  }
  const auto attributes = attributes_of(mount_, directory);
  if (!attributes) return std::unexpected(attributes.error());
  auto acl = list_in(*attributes, kDefaultAcl);
  if (!acl) return std::unexpected(acl.error());
  if (acl->empty()) {
    directory.may_have_default_acl = false;
    mode &= ~umask;
    return inherited;
  }
  if (S_ISDIR(mode)) inherited.emplace(kDefaultAcl, acl->value());
  mode = acl->restrict_to(mode);
  if (!acl->is_mode_only()) inherited.emplace(kAccessAcl, acl->value());
  return inherited;
}

Result<std::optional<WrittenXattrs>> Acls::follow(Inode& inode, mode_t mode) {
  if (!inode.may_have_acl.load(std::memory_order_relaxed)) return std::nullopt;
  auto attributes = attributes_of(mount_, inode);
  if (!attributes) return std::unexpected(attributes.error());
  auto acl = list_in(*attributes, kAccessAcl);
  if (!acl) return std::unexpected(acl.error());
  if (acl->empty()) {
    inode.may_have_acl = false;
    return std::nullopt;
  }
  if (acl->mode() == (mode & ACCESSPERMS)) return std::nullopt;
  acl->set_mode(mode);
  (*attributes)[std::string(kAccessAcl)] = acl->value();
  auto written = WrittenXattrs::write(mount_.volume.medium(), mount_.volume.allocator(),
                                      inode.number, inode.record, *attributes);
  if (!written) return std::unexpected(written.error());
  return std::move(*written);
}

}  // namespace daxfs
