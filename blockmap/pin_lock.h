// The lock that tells, in every namespace, whether somebody still maps what a pin holds.
//
// A process that maps the pool for a pin (libdaxfs) takes a shared open-file-description lock
// (fcntl(2)) of one byte that stands for the pin, on the description that it maps. The kernel keeps
// that until the last mapping and the last descriptor of it have gone, forked children's included.
// It needs no number of a process, so any other process that has the pool open can ask.
#pragma once

#include <cstdint>

#include "blockmap/pin_records.h"

namespace daxfs {

// Far behind any pool's end. client/maps.cpp knows the same place.
inline constexpr std::uint64_t kPinLocks = 1ull << 62;

// Asks the kernel through an open descriptor of the pool. Where that fails, there are no locks. A
// device node that is another one than the holder's has locks of its own.
bool is_pin_locked(int pool, std::uint64_t pin_id);

// Who can open the pool for writing can lock a byte there exclusively, and nobody else: that is how
// a program proves it (client/direct.cpp). `proof` says which byte; it is the program's choice.
inline constexpr std::uint64_t kAttachProofs = kPinLocks + (1ull << 61);
bool is_write_locked(int pool, std::uint64_t proof);
// The same for Volume::open() and fsck. Nearly always nobody has any lock: then no pin costs a
// call.
PinLocked pin_locks_of(int pool);

}  // namespace daxfs
