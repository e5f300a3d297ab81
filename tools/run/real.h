// The functions that this library stands before, as the next library in the program has them.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace daxfs::run {

// On 64-bit systems open64() and the like are the same functions.
struct Real {
  decltype(&::open) open;
  decltype(&::openat) openat;
  decltype(&::creat) creat;
  decltype(&::close) close;
  decltype(&::close_range) close_range;
  decltype(&::dup) dup;
  decltype(&::dup2) dup2;
  decltype(&::dup3) dup3;
  decltype(&::fcntl) fcntl;
  decltype(&::lockf) lockf;
  decltype(&::read) read;
  decltype(&::write) write;
  decltype(&::pread) pread;
  decltype(&::pwrite) pwrite;
  decltype(&::readv) readv;
  decltype(&::writev) writev;
  decltype(&::preadv) preadv;
  decltype(&::pwritev) pwritev;
  decltype(&::preadv2) preadv2;
  decltype(&::pwritev2) pwritev2;
  decltype(&::fsync) fsync;
  decltype(&::fdatasync) fdatasync;
  decltype(&::fdopen) fdopen;
  decltype(&::fclose) fclose;
  decltype(&::unshare) unshare;
  decltype(&::mmap) mmap;
};

// Found at the first call: a program can call them before anything of this library was run.
const Real& real();

}  // namespace daxfs::run
