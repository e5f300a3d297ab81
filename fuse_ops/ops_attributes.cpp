// Attributes, extended attributes, statfs.
#include <algorithm>
#include <optional>

#include "base/clock.h"
#include "base/kernel_version.h"
#include "fuse_ops/ops_control.h"
#include "fuse_ops/wire.h"

namespace daxfs::ops {
namespace {

void getattr(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  if (is_control(inode)) return control::getattr(req, inode);
  Attributes& attributes = fs(req).attributes();
  // Not by stat(2), nor by fstat(2): these name no open file.
  // Asked first: who attaches meanwhile has the kernel forget the answer.
  const double longest = believe(fs(req), {inode});
  const auto got = info != nullptr ? attributes.for_write(*file(info)) : attributes.get({inode});
  reply_attributes(req, got, longest);
}

// With cache=writeback the kernel sets times, too, for nobody: those of what it has kept. A caller
// who sets the time of a change to now, through a file that is open for writing, looks the same.
bool of_kept_writes(const AttributeChange& change, int to_set, const fuse_file_info* info) {
  return to_set == (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME) && info != nullptr &&
         file(info)->writable && change.mtime_ns == change.ctime_ns;
}

AttributeChange to_change(const struct stat& attributes, int to_set) {
  AttributeChange change;
  const std::int64_t now = file_time_now();
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) change.mode = attributes.st_mode;
  if ((to_set & FUSE_SET_ATTR_UID) != 0) change.uid = attributes.st_uid;
  if ((to_set & FUSE_SET_ATTR_GID) != 0) change.gid = attributes.st_gid;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0)
    change.size = static_cast<std::uint64_t>(attributes.st_size);
  if ((to_set & FUSE_SET_ATTR_ATIME) != 0) {
    change.atime_ns =
        (to_set & FUSE_SET_ATTR_ATIME_NOW) != 0 ? now : from_timespec(attributes.st_atim);
  }
  if ((to_set & FUSE_SET_ATTR_MTIME) != 0) {
    change.mtime_ns =
        (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0 ? now : from_timespec(attributes.st_mtim);
  }
  if ((to_set & FUSE_SET_ATTR_CTIME) != 0) change.ctime_ns = from_timespec(attributes.st_ctim);
  // utimensat(2) of one of them alone counts as setting times, to now or not. (With cache=writeback
  // now is the kernel's own.)
  const bool mtime_is_now = (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0 ||
                            (change.mtime_ns && change.mtime_ns == change.ctime_ns);
  change.times_are_now = (to_set & FUSE_SET_ATTR_ATIME_NOW) != 0 && mtime_is_now;
  // The kernel's FATTR_KILL_SUIDGID, sent since we promised to handle it (HANDLE_KILLPRIV_V2).
  change.drop_privileges = (to_set & FUSE_SET_ATTR_KILL_SUID) != 0;
  return change;
}

// ftruncate(2) comes with its open file, O_TRUNC with the one that it opens, truncate(2) with none.
// Where no size is set the kernel may name any open file, a directory too; nobody asks then.
std::optional<HolderId> through(const AttributeChange& change, const fuse_file_info* info) {
  if (!change.size || info == nullptr) return std::nullopt;
  return file(info)->holder;
}

// Before Linux 6.16 the kernel takes over what stands in the answer to a SETATTR even if it has
// heard of newer attributes meanwhile. There it is to ask again.
double believe_changed(Filesystem& filesystem, InodeNumber inode) {
  static const bool hears = kernel_is_at_least(6, 16);
  return hears ? believe(filesystem, inode) : 0.0;
}

void setattr(fuse_req_t req, fuse_ino_t inode, struct stat* attributes, int to_set,
             fuse_file_info* info) {
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && attributes->st_size < 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  AttributeChange change = to_change(*attributes, to_set);
  if (is_control(inode)) return control::setattr(req, inode, change);
  change.of_kept_writes = of_kept_writes(change, to_set, info);
  const auto waiting = Waiting::of(req);
  fs(req).attributes().set(
      {inode}, change, through(change, info), caller(req), waiting->cancellation(),
      [waiting, inode](const Result<struct stat>& changed) {
        fuse_req_t finished = waiting->finish();
        reply_attributes(finished, changed, believe_changed(fs(finished), {inode}));
      });
}

// getxattr and listxattr: size 0 asks for the length.
void reply_sized(fuse_req_t req, std::string_view value, std::size_t size) {
  if (size == 0) {
    fuse_reply_xattr(req, value.size());
  } else if (value.size() > size) {
    fuse_reply_err(req, ERANGE);
  } else {
    fuse_reply_buf(req, value.data(), value.size());
  }
}

void getxattr(fuse_req_t req, fuse_ino_t inode, const char* name, std::size_t size) {
  if (is_control(inode)) return reply(req, fail(ENODATA));
  const auto value = fs(req).xattrs().get({inode}, name);
  if (value) {
    reply_sized(req, *value, size);
  } else {
    fuse_reply_err(req, value.error().code);
  }
}

void listxattr(fuse_req_t req, fuse_ino_t inode, std::size_t size) {
  if (is_control(inode)) return reply_sized(req, {}, size);
  const auto names = fs(req).xattrs().list({inode});
  if (!names) {
    fuse_reply_err(req, names.error().code);
    return;
  }
  std::string list;
  for (const std::string& name : *names) {
    // trusted.* is root's own business (xattr(7)).
    if (name.starts_with("trusted.") && fuse_req_ctx(req)->uid != 0) continue;
    list += name;
    list += '\0';
  }
  reply_sized(req, list, size);
}

void setxattr(fuse_req_t req, fuse_ino_t inode, const char* name, const char* value,
              std::size_t size, int flags) {
  if (is_control(inode)) return reply(req, fail(EPERM));
  reply(req, fs(req).xattrs().set({inode}, name, {value, size}, flags, caller(req),
                                  current_setxattr_drops_setgid()));
}

void removexattr(fuse_req_t req, fuse_ino_t inode, const char* name) {
  if (is_control(inode)) return reply(req, fail(EPERM));
  reply(req, fs(req).xattrs().remove({inode}, name, caller(req)));
}

void statfs(fuse_req_t req, fuse_ino_t) {
  const struct statvfs statistics = fs(req).reports().statistics();
  fuse_reply_statfs(req, &statistics);
}

}  // namespace

void add_attribute_ops(fuse_lowlevel_ops& ops) {
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.getxattr = getxattr;
  ops.listxattr = listxattr;
  ops.setxattr = setxattr;
  ops.removexattr = removexattr;
  ops.statfs = statfs;
}

}  // namespace daxfs::ops
