// How far ahead the kernel reads a file that is read in sequence. Its default for FUSE, 128 KiB,
// makes eight requests of what could be one; no protocol flag raises it, only sysfs does.
#pragma once

#include <string>

namespace daxfs {

// What INIT's reply has to allow, and one request can carry.
inline constexpr unsigned kReadaheadBytes = 1 << 20;

// Raises the read-ahead of what is mounted there. Call before the kernel gets the INIT reply: it
// takes the smaller of the two. Without the right to write to sysfs nothing changes. Does not touch
// the mount itself, which does not answer yet.
void raise_readahead(const std::string& mountpoint);

}  // namespace daxfs
