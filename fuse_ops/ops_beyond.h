// Operations that Debian 12's libfuse does not know, or not every libfuse since: TMPFILE
// (Linux 6.1, libfuse 3.17), STATX (Linux 6.6, libfuse 3.18). They are read and answered here in
// all versions.
#pragma once

#include "fuse_ops/ops.h"
#include "fuse_ops/wire.h"

namespace daxfs::ops {

// False: it is none of them, and nothing is done.
bool answer_beyond(Context& session, const Message& request);

}  // namespace daxfs::ops
