// Between libfuse and the kernel: protocol features that the kernel has and Debian 12's libfuse
// (3.14) cannot ask for. libfuse hands every message through these two functions
// (fuse_session_custom_io); they pass it on and
//   - add to the INIT reply, where the kernel offers them: HANDLE_KILLPRIV_V2 (else every buffered
//   write asks for
//     security.capability first), DIRECT_IO_ALLOW_MMAP (shared mmap of O_DIRECT files); and allow
//     it to read as far ahead as readahead.h wants;
//   - add to OPEN and CREATE replies with direct I/O: PARALLEL_DIRECT_WRITES;
//   - remember what libfuse does not tell its callers: whether a write must drop setuid and setgid
//   bits; and whether a reply could not be sent because the pool's storage is gone.
#pragma once

#include <fuse_lowlevel.h>

namespace daxfs {

// Installs the hooks. Call between fuse_session_mount() and the session loop. False (with a message
// from libfuse) on failure.
bool install_wire_hooks(fuse_session* session);

// About the request that this thread read last, i.e. the one that it is serving.
bool current_write_drops_privileges();
// Its reply was read from pool memory without storage below: the caller got EIO.
bool current_reply_was_unreadable();

}  // namespace daxfs
