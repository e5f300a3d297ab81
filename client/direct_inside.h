// libdaxfs, for the interposer of daxfs-run, which has these sources in it: attaching in steps, and
// copies that are not made by system call instead.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "client/daxfs.h"

namespace daxfs::client {

// The same file as another open file, which goes past the page cache: a descriptor, or -1.
int open_past_cache(int fd, int flags);
// daxfs_attach() from there on: the descriptor is the handle's, and closed with it. Null with
// errno: it is still the caller's. `flags`: of the descriptor that was given to open_past_cache().
daxfs_direct* attach_opened(int own, int flags);
int own_descriptor(const daxfs_direct& direct);

// Why a copy was not made; the system call is to be made on own_descriptor(). Never -1.
inline constexpr ssize_t kClosed = -2;   // the daemon has the file closed
inline constexpr ssize_t kUnknown = -3;  // it would grow, or a hole be filled
inline constexpr ssize_t kUnable = -4;   // not by this handle at all, or not such a request
inline constexpr ssize_t kForked = -5;   // the handle is the parent's
// daxfs_preadv() or daxfs_pwritev() without that system call.
ssize_t try_transfer(daxfs_direct& direct, bool write, const iovec* iov, int count,
                     std::uint64_t offset);

// Whether the file is open for copies now: so the kernel has no page of it that is not in the pool,
// and all that this process has copied is durable.
bool is_open_for_copies(const daxfs_direct& direct);

}  // namespace daxfs::client
