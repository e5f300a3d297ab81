// The shutdown that ext4 and XFS have, too: an ioctl after which a mount is as after a crash, for
// tests of what lies above it.
//
// XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN are one number, by whose direction the kernel hands us no
// input. So its flags, which say what is to be written first, are not seen. Nothing is written
// first: what was acknowledged is on the medium, and what only the kernel has is lost as in a
// crash.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

#include "fuse_ops/ops.h"
#include "fuse_ops/wire.h"

namespace daxfs::ops {

inline constexpr unsigned kShutdown = _IOR('X', 125, std::uint32_t);

// The ioctl, answered.
void shut_down(fuse_req_t req);

// Answers the request (EIO) if the filesystem is shut down, but for what the kernel needs for an
// unmount, and for attributes, which tell of what there was; false: it is to be served.
bool refuse_if_shut_down(Context& session, const Message& request);

}  // namespace daxfs::ops
