// Listing directories.
#include <dirent.h>

#include <cstring>
#include <vector>

#include "fuse_ops/ops_control.h"

namespace daxfs::ops {
namespace {

void opendir(fuse_req_t req, fuse_ino_t, fuse_file_info* info) { fuse_reply_open(req, info); }

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

// Names in the pool have no terminating NUL, libfuse wants one.
struct CName {
  explicit CName(std::string_view name) {
    std::memcpy(text, name.data(), name.size());
    text[name.size()] = '\0';
  }
  char text[pmem::kMaxName + 1];
};

// The kernel asks for a page or a few at a time.
constexpr std::size_t kMostBytes = 1 << 20;

using Visit = std::function<bool(const Names::DirectoryEntry&)>;

Status list(fuse_req_t req, fuse_ino_t inode, off_t offset, const Visit& visit) {
  const auto cookie = static_cast<std::uint64_t>(offset);
  if (is_control(inode)) return context(req).control.list({inode}, cookie, visit);
  if (InodeNumber{inode} != kRootInode)
    return fs(req).names().read_directory({inode}, cookie, visit);
  return fs(req).names().read_directory({inode}, cookie, [&](const Names::DirectoryEntry& entry) {
    // Of an old pool: the control directory covers it.
    return entry.name == ControlDirectory::kName || visit(entry);
  });
}

void readdir(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset, fuse_file_info*) {
  std::vector<char> buffer(std::min(size, kMostBytes));
  std::size_t used = 0;
  const Status status = list(req, inode, offset, [&](const Names::DirectoryEntry& entry) {
    const CName name(entry.name);
    struct stat attributes {};
    attributes.st_ino = entry.inode.value;
    attributes.st_mode = static_cast<mode_t>(DTTOIF(entry.type));
    const std::size_t room = buffer.size() - used;
    const std::size_t need = fuse_add_direntry(req, buffer.data() + used, room, name.text,
                                               &attributes, static_cast<off_t>(entry.cookie));
    if (need > room) return false;
    used += need;
    return true;
  });
  if (!status) {
    fuse_reply_err(req, status.error().code);
  } else {
    fuse_reply_buf(req, buffer.data(), used);
  }
}

void readdirplus(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset,
                 fuse_file_info*) {
  std::vector<char> buffer(std::min(size, kMostBytes));
  std::size_t used = 0;
  Filesystem& filesystem = fs(req);
  std::vector<InodeNumber> looked_up;
  const Status status = list(req, inode, offset, [&](const Names::DirectoryEntry& entry) {
    const CName name(entry.name);
    const std::size_t room = buffer.size() - used;
    if (fuse_add_direntry_plus(req, nullptr, 0, name.text, nullptr, 0) > room) return false;
    fuse_entry_param param{};
    param.attr.st_ino = entry.inode.value;
    param.attr.st_mode = static_cast<mode_t>(DTTOIF(entry.type));
    // "." and ".." count as no lookup; a child that cannot be read is listed without its
    // attributes.
    if (entry.cookie > 2 && is_control(inode)) {
      if (const auto child = context(req).control.lookup({inode}, entry.name)) {
        param = to_param(*child);
      }
    } else if (entry.cookie > 2) {
      if (const auto child = filesystem.names().entry_of(entry.inode, {inode}, entry.name)) {
        param = to_param(*child);
        param.attr_timeout = believe(filesystem, entry.inode);
        looked_up.push_back(entry.inode);
      }
    }
    used += fuse_add_direntry_plus(req, buffer.data() + used, room, name.text, &param,
                                   static_cast<off_t>(entry.cookie));
    return true;
  });
  if (!status) {
    fuse_reply_err(req, status.error().code);
  } else if (fuse_reply_buf(req, buffer.data(), used) == -ENOENT) {
    for (const InodeNumber number : looked_up) filesystem.names().forget(number, 1);
  }
}

}  // namespace

void add_directory_ops(fuse_lowlevel_ops& ops) {
  ops.opendir = opendir;
  ops.releasedir = releasedir;
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
}

}  // namespace daxfs::ops
