// An open file description: what one open(2) made, and so the holder of pins.
#pragma once

#include <atomic>
#include <cstdint>

#include "lease/gate.h"
#include "src/inode.h"

namespace daxfs {

struct OpenFile {
  InodeRef inode;
  HolderId holder;
  bool readable = false;
  bool writable = false;
  bool direct = false;                   // bypasses the kernel's page cache
  bool keep_cache = false;               // pages that the kernel has cached earlier are still good
  std::atomic<bool> ever_pinned{false};  // or had a lease
};

}  // namespace daxfs
