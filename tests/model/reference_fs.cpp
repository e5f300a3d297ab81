#include "tests/model/reference_fs.h"

#include <linux/fs.h>
#include <sys/xattr.h>

#include <algorithm>

namespace daxfs::testing {
namespace {

constexpr std::uint64_t kEndOfBlocks = ~0ull;
const std::string kAccess = "system.posix_acl_access";
const std::string kStandard = "system.posix_acl_default";

std::uint64_t end_block(std::uint64_t end) { return blocks_for(ByteCount(end)).value; }

bool is_xattr_name(const std::string& name) {
  return name.starts_with("user.") || name.starts_with("trusted.") || name.starts_with("security.");
}

}  // namespace

ReferenceFs::ReferenceFs(PinPolicy policy, std::uint64_t limbo_limit_blocks)
    : policy_(policy), limbo_limit_(limbo_limit_blocks) {
  Node& root = nodes_[kRoot];
  root.mode = S_IFDIR | 0755;
  root.links = 2;
  root.parent = kRoot;
  root.real = kRootInode;
  root.mtime_moved = root.ctime_moved = Moved::maybe;
}

void ReferenceFs::touch(Node& node, bool modified) {
  node.ctime_moved = Moved::now;
  if (modified) node.mtime_moved = Moved::now;
}

void ReferenceFs::forget_if_dead(NodeId id) {
  Node& node = nodes_.at(id);
  if (node.links != 0 || node.opens != 0) return;
  detach(node, 0, kEndOfBlocks);
  nodes_.erase(id);
}

// --- names ---

Result<ReferenceFs::NodeId> ReferenceFs::lookup(NodeId parent, const std::string& name) const {
  if (name.size() > 255) return fail(ENAMETOOLONG);
  const Node& directory = nodes_.at(parent);
  // Also of a file: so a file handle is looked up.
  if (name == ".") return directory.links == 0 ? fail(ESTALE) : Result<NodeId>(parent);
  if (!directory.is_directory()) return fail(ENOTDIR);
  if (name == "..") return directory.parent;
  const auto found = directory.entries.find(name);
  if (found == directory.entries.end()) return fail(ENOENT);
  return found->second;
}

ReferenceFs::Node& ReferenceFs::add(const Node& parent, const NewNode& what) {
  const bool inherit_group = (parent.mode & S_ISGID) != 0;
  const gid_t gid = inherit_group ? parent.gid : what.gid;
  Node& node = nodes_[++last_node_];
  node.mode = what.mode;
  node.uid = what.uid;
  node.gid = gid;
  node.rdev = what.rdev;
  node.links = 1;
  node.target = what.target;
  if (!what.target.empty()) return node;
  if (parent.standard) {
    node.access = parent.standard;
    node.access->limit(what.mode);
    node.mode = (what.mode & ~static_cast<mode_t>(0777)) | node.access->mode();
    if (node.access->is_mode_only()) node.access.reset();
    if (node.is_directory()) node.standard = parent.standard;
    store_acls(node);
  } else {
    node.mode &= ~what.umask;
  }
  return node;
}

Result<ReferenceFs::NodeId> ReferenceFs::make(NodeId parent, const std::string& name,
                                              const NewNode& what) {
  if (name.size() > 255) return fail(ENAMETOOLONG);
  Node& directory = nodes_.at(parent);
  if (!directory.is_directory()) return fail(ENOTDIR);
  if (directory.entries.contains(name)) return fail(EEXIST);
  Node& node = add(directory, what);
  const NodeId id = last_node_;
  if (!what.target.empty()) {
    node.size = what.target.size();
    node.blocks[0] = fresh(true);
  }
  if (node.is_directory()) {
    node.mode |= directory.mode & S_ISGID;
    node.links = 2;
    node.parent = parent;
    directory.links += 1;
  }
  directory.entries[name] = id;
  touch(directory, true);
  return id;
}

Result<ReferenceFs::NodeId> ReferenceFs::make_unnamed(NodeId parent, const NewNode& what,
                                                      bool linkable) {
  if (!nodes_.at(parent).is_directory()) return fail(ENOTDIR);
  Node& node = add(nodes_.at(parent), what);
  node.links = 0;
  node.linkable = linkable;
  return last_node_;
}

ReferenceFs::NodeId ReferenceFs::any_linkable() const {
  const auto found = std::ranges::find_if(nodes_, [](const auto& n) { return n.second.linkable; });
  return found == nodes_.end() ? 0 : found->first;
}

Status ReferenceFs::link(NodeId id, NodeId parent, const std::string& name) {
  if (name.size() > 255) return fail(ENAMETOOLONG);
  Node& directory = nodes_.at(parent);
  Node& node = nodes_.at(id);
  if (!directory.is_directory()) return fail(ENOTDIR);
  if (node.is_directory()) return fail(EPERM);
  if (node.links == 0 && !node.linkable) return fail(ENOENT);
  if (directory.entries.contains(name)) return fail(EEXIST);
  directory.entries[name] = id;
  node.links += 1;
  node.linkable = false;
  touch(directory, true);
  touch(node, false);
  return {};
}

void ReferenceFs::drop_name(Node& directory, const std::string& name) {
  directory.entries.erase(name);
  directory.removals.push_back(name);
  touch(directory, true);
}

Status ReferenceFs::unlink(NodeId parent, const std::string& name) {
  Node& directory = nodes_.at(parent);
  if (!directory.is_directory()) return fail(ENOTDIR);
  const auto found = directory.entries.find(name);
  if (found == directory.entries.end()) return fail(ENOENT);
  const NodeId id = found->second;
  Node& node = nodes_.at(id);
  if (node.is_directory()) return fail(EISDIR);
  drop_name(directory, name);
  node.links -= 1;
  touch(node, false);
  forget_if_dead(id);
  return {};
}

Status ReferenceFs::remove_directory(NodeId parent, const std::string& name) {
  Node& directory = nodes_.at(parent);
  if (!directory.is_directory()) return fail(ENOTDIR);
  const auto found = directory.entries.find(name);
  if (found == directory.entries.end()) return fail(ENOENT);
  const NodeId id = found->second;
  Node& node = nodes_.at(id);
  if (!node.is_directory()) return fail(ENOTDIR);
  if (!node.entries.empty()) return fail(ENOTEMPTY);
  drop_name(directory, name);
  directory.links -= 1;
  node.links = 0;
  forget_if_dead(id);
  return {};
}

bool ReferenceFs::is_above(NodeId ancestor, NodeId of) const {
  for (; of != kRoot; of = nodes_.at(of).parent) {
    if (of == ancestor) return true;
  }
  return ancestor == kRoot;
}

Status ReferenceFs::rename(NodeId parent, const std::string& name, NodeId new_parent,
                           const std::string& new_name, unsigned flags) {
  if (name.size() > 255 || new_name.size() > 255) return fail(ENAMETOOLONG);
  Node& from = nodes_.at(parent);
  Node& to = nodes_.at(new_parent);
  if (!from.is_directory() || !to.is_directory()) return fail(ENOTDIR);
  const auto source_entry = from.entries.find(name);
  if (source_entry == from.entries.end()) return fail(ENOENT);
  const NodeId source_id = source_entry->second;
  Node& source = nodes_.at(source_id);
  const auto target_entry = to.entries.find(new_name);
  const NodeId target_id = target_entry == to.entries.end() ? 0 : target_entry->second;
  Node* const target = target_id == 0 ? nullptr : &nodes_.at(target_id);
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;

  if (exchange && target == nullptr) return fail(ENOENT);
  if (target != nullptr && (flags & RENAME_NOREPLACE) != 0) return fail(EEXIST);
  if (source.is_directory() && is_above(source_id, new_parent)) return fail(EINVAL);
  if (target != nullptr && target->is_directory() && is_above(target_id, parent)) {
    return fail(exchange ? EINVAL : ENOTEMPTY);
  }
  if (target != nullptr && !exchange) {
    if (target->is_directory() && !source.is_directory()) return fail(EISDIR);
    if (!target->is_directory() && source.is_directory()) return fail(ENOTDIR);
    if (!target->entries.empty()) return fail(ENOTEMPTY);
  }
  if (target == &source) return {};
  if (target != nullptr && !exchange && target->is_regular() && target->links == 1) {
    if (const Status allowed = judge(*target, 0, kEndOfBlocks); !allowed) return allowed;
  }

  const auto moved = [](Node& node, Node& old_home, Node& new_home, NodeId new_home_id) {
    touch(node, false);
    if (!node.is_directory()) return;
    old_home.links -= 1;
    new_home.links += 1;
    node.parent = new_home_id;
  };
  touch(from, true);
  touch(to, true);
  moved(source, from, to, new_parent);
  if (exchange) {
    moved(*target, to, from, parent);
    from.entries[name] = target_id;
    to.entries[new_name] = source_id;
    return {};
  }
  drop_name(from, name);
  to.entries[new_name] = source_id;
  if ((flags & RENAME_WHITEOUT) != 0) {
    add(from, {.mode = S_IFCHR, .rdev = 0, .target = {}, .uid = 0, .gid = 0});
    from.entries[name] = last_node_;
  }
  if (target == nullptr) return {};
  touch(*target, false);
  if (target->is_directory()) {
    to.links -= 1;
    target->links = 0;
  } else {
    target->links -= 1;
  }
  forget_if_dead(target_id);
  return {};
}

// --- attributes ---

void ReferenceFs::drop_setid(Node& node) {
  node.mode &= ~static_cast<mode_t>(S_ISUID);
  if ((node.mode & S_IXGRP) != 0) node.mode &= ~static_cast<mode_t>(S_ISGID);
}

Status ReferenceFs::set_attributes(NodeId id, const AttributeChange& change) {
  Node& node = nodes_.at(id);
  if (change.size) {
    if (node.is_directory()) return fail(EISDIR);
    if (!node.is_regular()) return fail(EINVAL);
    if (*change.size > static_cast<std::uint64_t>(INT64_MAX)) return fail(EFBIG);
    if (*change.size <= node.size) {
      if (const Status allowed = judge(node, end_block(*change.size), kEndOfBlocks); !allowed) {
        return allowed;
      }
      detach(node, end_block(*change.size), kEndOfBlocks);
      zero(node, *change.size, node.size);
    }
    node.size = *change.size;
    touch(node, true);
  }
  if (change.mode) {
    node.mode = (node.mode & S_IFMT) | (*change.mode & 07777);
    if (node.access) node.access->chmod(*change.mode);
    store_acls(node);
  }
  // A change of nothing is a chown(2) of nothing.
  const bool drops = change.uid || change.gid || change.drop_privileges || change.is_empty();
  if (drops && !change.mode && !node.is_directory()) drop_setid(node);
  if (change.uid) node.uid = *change.uid;
  if (change.gid) node.gid = *change.gid;
  touch(node, false);
  if (change.mtime_ns) {
    node.mtime = *change.mtime_ns;
    node.mtime_moved = Moved::no;
  }
  if (change.ctime_ns) {
    node.ctime = *change.ctime_ns;
    node.ctime_moved = Moved::no;
  }
  return {};
}

Result<std::string> ReferenceFs::get_xattr(NodeId id, const std::string& name) const {
  if (name.size() > 255) return fail(ERANGE);
  if (!is_xattr_name(name)) return fail(EOPNOTSUPP);
  const Node& node = nodes_.at(id);
  const auto found = node.xattrs.find(name);
  if (found == node.xattrs.end()) return fail(ENODATA);
  return found->second;
}

Status ReferenceFs::set_xattr(NodeId id, const std::string& name, const std::string& value,
                              int flags) {
  if (name.size() > 255) return fail(ERANGE);
  if (!is_xattr_name(name)) return fail(EOPNOTSUPP);
  if (value.size() > 64 << 10) return fail(E2BIG);
  Node& node = nodes_.at(id);
  const bool there = node.xattrs.contains(name);
  if (there && (flags & XATTR_CREATE) != 0) return fail(EEXIST);
  if (!there && (flags & XATTR_REPLACE) != 0) return fail(ENODATA);
  node.xattrs[name] = value;
  touch(node, false);
  return {};
}

Status ReferenceFs::remove_xattr(NodeId id, const std::string& name) {
  Node& node = nodes_.at(id);
  const bool is_list = name == kAccess || name == kStandard;
  if (!is_list && !is_xattr_name(name)) return fail(EOPNOTSUPP);
  if (node.xattrs.erase(name) == 0) return is_list ? Status() : fail(ENODATA);
  if (name == kAccess) node.access.reset();
  if (name == kStandard) node.standard.reset();
  touch(node, false);
  return {};
}

void ReferenceFs::store_acls(Node& node) {
  if (node.access) node.xattrs[kAccess] = node.access->encoded();
  if (node.standard) node.xattrs[kStandard] = node.standard->encoded();
}

Status ReferenceFs::set_acl(NodeId id, bool standard, const ReferenceAcl& acl, bool drop_setgid) {
  Node& node = nodes_.at(id);
  if (S_ISLNK(node.mode)) return fail(EOPNOTSUPP);
  if (standard && !node.is_directory()) return fail(EACCES);
  if (standard) {
    node.standard = acl;
  } else {
    node.mode = (node.mode & ~static_cast<mode_t>(0777)) | acl.mode();
    if (drop_setgid) node.mode &= ~static_cast<mode_t>(S_ISGID);
    node.access = acl;
    if (acl.is_mode_only()) {
      node.access.reset();
      node.xattrs.erase(kAccess);
    }
  }
  store_acls(node);
  touch(node, false);
  return {};
}

void ReferenceFs::close(NodeId id) {
  nodes_.at(id).opens -= 1;
  forget_if_dead(id);
}

void ReferenceFs::remount() {
  pins_.clear();
  pinned_.clear();
  limbo_.clear();
  for (auto& [id, node] : nodes_) node.opens = 0;
  std::erase_if(nodes_, [](const auto& item) { return item.second.links == 0; });
}

}  // namespace daxfs::testing
