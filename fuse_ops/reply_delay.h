// For tests: replies that come late, so that everything which the kernel can do meanwhile happens.
// The environment asks for it:
//   DAXFS_TEST_REPLY_DELAY=MICROSECONDS         after each reply the daemon sleeps so long, before
//                                               the handler goes on
//   DAXFS_TEST_LATE_REPLY=OPCODE:MICROSECONDS   replies to requests of this FUSE opcode come so
//                                               much later than they were made
// Those that libfuse writes are delayed only where it has custom I/O (Debian's from 3.18 on has
// not).
#pragma once

#include <fuse_lowlevel.h>

#include <cstdint>

namespace daxfs {

// Reads the environment, and if there is anything to do, hooks into what libfuse writes. Call
// between fuse_session_mount() and the first request. False (with a message from libfuse): that
// cannot be done.
bool prepare_reply_delays(fuse_session* session);

void delay_before_reply(std::uint32_t opcode);
// Keeps errno.
void delay_after_reply();

}  // namespace daxfs
