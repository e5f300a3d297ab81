// What INIT's answer lacks: protocol features that the kernel has and libfuse cannot ask for, or
// not in every version (Debian 12's is 3.14).
//
// libfuse writes its answers to the session's descriptor, and has a hook for that only where it was
// built with custom I/O (Debian's from 3.18 on is not). So for as long as it makes this one answer
// the descriptor stands for a socket of ours; what comes out there goes on to the kernel with
// what is added. Each feature is added only where the kernel offers it:
//   - HANDLE_KILLPRIV_V2: else every buffered write asks for security.capability first;
//   - DIRECT_IO_ALLOW_MMAP: shared mappings of O_DIRECT files;
//   - SETXATTR_EXT: a SETXATTR says whether a set-group-id bit goes with an access control list;
//   - reading as far ahead as readahead.h wants.
#pragma once

#include <fuse_lowlevel.h>

#include "fuse_ops/wire.h"

namespace daxfs {

// Has libfuse answer an INIT. Where that cannot be done as above it answers directly, and the
// features are off.
void serve_init(fuse_session* session, const Message& request, const fuse_buf& message);

// Whether the kernel sends the longer SETXATTR, since the last INIT.
bool setxattr_is_long();

}  // namespace daxfs
