// An open file description: what one open(2) made, and so the holder of pins.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "lease/gate.h"
#include "src/inode.h"

namespace daxfs {

// A request holds a reference until its handler returns, whatever it has answered before: RELEASE
// can follow the answer at once, and takes the kernel's reference away.
struct OpenFile : std::enable_shared_from_this<OpenFile> {
  InodeRef inode;
  HolderId holder;
  bool readable = false;
  bool writable = false;
  bool direct = false;                   // bypasses the kernel's page cache
  bool keep_cache = false;               // pages that the kernel has cached earlier are still good
  std::atomic<bool> ever_pinned{false};  // or had a lease
};
using OpenFileRef = std::shared_ptr<OpenFile>;

}  // namespace daxfs
