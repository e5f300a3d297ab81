// lookup, forget, create and remove names.
#include "fuse_ops/ops_control.h"
#include "fuse_ops/wire.h"

namespace daxfs::ops {
namespace {

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (is_control(parent, name)) return control::lookup(req, parent, name);
  const auto entry = fs(req).names().lookup({parent}, name);
  if (!entry && entry.error().code == ENOENT) {
    // Number 0 lets the kernel remember that there is no such name.
    fuse_entry_param none{};
    none.entry_timeout = kForever;
    fuse_reply_entry(req, &none);
    return;
  }
  reply_entry(req, entry);
}

void forget(fuse_req_t req, fuse_ino_t inode, std::uint64_t count) {
  fs(req).names().forget({inode}, count);
  fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i)
    fs(req).names().forget({forgets[i].ino}, forgets[i].nlookup);
  fuse_reply_none(req);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  if (refuse_control(req, parent, name)) return;
  reply_entry(req, fs(req).names().make_node({parent}, name, mode, rdev, caller(req)));
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  if (refuse_control(req, parent, name)) return;
  reply_entry(req, fs(req).names().make_directory({parent}, name, mode, caller(req)));
}

void symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  if (refuse_control(req, parent, name)) return;
  reply_entry(req, fs(req).names().make_symlink({parent}, name, target, caller(req)));
}

void readlink(fuse_req_t req, fuse_ino_t inode) {
  const auto target = fs(req).names().read_symlink({inode});
  if (target) {
    fuse_reply_readlink(req, target->c_str());
  } else {
    fuse_reply_err(req, target.error().code);
  }
}

void link(fuse_req_t req, fuse_ino_t inode, fuse_ino_t parent, const char* name) {
  if (is_control(inode)) return reply(req, fail(EPERM));
  if (refuse_control(req, parent, name)) return;
  // The kernel takes over what stands in this answer even if it has heard of newer attributes (a
  // pin that has made the file longer) meanwhile. So it is to ask again.
  reply_entry(req, fs(req).names().link({inode}, {parent}, name), 0);
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (refuse_control(req, parent, name)) return;
  reply(req, fs(req).names().unlink({parent}, name));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (refuse_control(req, parent, name)) return;
  reply(req, fs(req).names().remove_directory({parent}, name));
}

void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
            const char* new_name, unsigned flags) {
  if (refuse_control(req, parent, name) || refuse_control(req, new_parent, new_name)) return;
  const Renaming renaming{{parent}, name, {new_parent}, new_name, flags};
  const auto waiting = Waiting::of(req);
  fs(req).renames().rename(
      renaming, caller(req), [&] { return waiting->cancellation(); },
      [waiting](const Status& status) { reply(waiting->finish(), status); });
}

void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
            fuse_file_info* info) {
  if (refuse_control(req, parent, name)) return;
  const auto entry =
      fs(req).names().make_node({parent}, name, S_IFREG | (mode & 07777), 0, caller(req));
  if (!entry) {
    fuse_reply_err(req, entry.error().code);
    return;
  }
  const auto answer = [req](const fuse_entry_param& param, const fuse_file_info& opened) {
    return reply_create(req, param, opened);
  };
  if (const int code = open_made(context(req), *entry, info->flags, answer))
    fuse_reply_err(req, code);
}

}  // namespace

void add_namespace_ops(fuse_lowlevel_ops& ops) {
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.readlink = readlink;
  ops.link = link;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.create = create;
}

}  // namespace daxfs::ops
