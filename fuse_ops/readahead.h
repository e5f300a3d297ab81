// How far ahead the kernel reads a file that is read in sequence. Its default for FUSE, 128 KiB,
// makes eight requests of what could be one; no protocol flag raises it, only sysfs does.
#pragma once

#include <string>

namespace daxfs {

// As much as one request can carry.
inline constexpr unsigned kReadaheadBytes = 1 << 20;

// Raises the read-ahead of what is mounted there. Call when the kernel has INIT's reply, which can
// only lower it. Without the right to write to sysfs nothing changes. Does not touch the mount
// itself: whose thread this is may be the only one that answers.
void raise_readahead(const std::string& mountpoint);

}  // namespace daxfs
