// The ioctls by which chattr(1), lsattr(1) and xfs_io(8) see and change an inode's flags. The
// kernel sends them with sizes of its own, for FS_IOC_GETFLAGS not the one in its number.
#pragma once

#include <fuse_lowlevel.h>

#include "src/filesystem.h"

namespace daxfs::ops {

bool is_about_flags(unsigned command);
// Precondition: is_about_flags(). `opened`: null for a directory.
void ioctl_flags(fuse_req_t req, fuse_ino_t inode, unsigned command, const OpenFileRef& opened,
                 const void* in, std::size_t in_size);

}  // namespace daxfs::ops
