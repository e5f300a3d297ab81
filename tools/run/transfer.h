// Reads and writes of attached files.
#pragma once

#include <sys/uio.h>

#include "tools/run/descriptors.h"

namespace daxfs::run {

struct Transfer {
  bool write;
  const iovec* iov;
  int count;
};

// These return false where the program's own call is to be made instead: nothing has happened then.
// Else `*result` and errno are what that would have returned.

// As preadv() and pwritev().
bool transfer_at(const Use& use, const Transfer& transfer, off_t offset, ssize_t* result);
// As readv() and writev(). The position stays the kernel's, so it is right for everybody who shares
// it: it is moved on by a system call, which is a short one.
bool transfer_here(const Use& use, int fd, const Transfer& transfer, ssize_t* result);

}  // namespace daxfs::run
