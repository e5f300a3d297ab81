// The control directory's part of the operations (src/control_directory.h). Its inode numbers tell:
// one comparison keeps everything else away from here.
#pragma once

#include "fuse_ops/ops.h"

namespace daxfs::ops {

inline bool is_control(fuse_ino_t inode) { return ControlDirectory::contains({inode}); }
inline bool is_control(fuse_ino_t parent, const char* name) {
  return ControlDirectory::has({parent}, name);
}
// Nobody changes the names in and of the control directory. True: EPERM has been replied.
bool refuse_control(fuse_req_t req, fuse_ino_t parent, const char* name);

namespace control {

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
void getattr(fuse_req_t req, fuse_ino_t inode);
void setattr(fuse_req_t req, fuse_ino_t inode, const AttributeChange& change);
void open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info);
void release(fuse_req_t req, fuse_file_info* info);
void read(fuse_req_t req, std::size_t size, off_t offset, fuse_file_info* info);
void write(fuse_req_t req, std::string_view text, fuse_file_info* info);
void poll(fuse_req_t req, fuse_file_info* info, fuse_pollhandle* handle);

}  // namespace control
}  // namespace daxfs::ops
