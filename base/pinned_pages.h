// Whether anything on this machine still has pages pinned.
#pragma once

#include "base/process_identity.h"

namespace daxfs {

// True only if no page is pinned through pin_user_pages(): the kernel counts what was pinned and
// given back (nr_foll_pin_acquired and _released in /proc/vmstat). io_uring's registered buffers,
// RDMA, VFIO, drivers of GPUs and, from Linux 6.5 on, O_DIRECT to block devices pin that way;
// vmsplice does not. False where that cannot be told: on an older kernel, or for a user who may not
// fold the counters' per-CPU parts first (root may).
//
// Thread-safe. Costs some 50 microseconds.
bool no_page_is_pinned();

// For the mount and fsck: whether blocks that the process had pinned may still be used. It lives;
// or it has ended, nobody knows when, and a device may still be at work for it.
bool may_be_in_use(const PinOwner& owner);

}  // namespace daxfs
