// What is left when memory runs out (a limit of the process, or of the machine without overcommit):
// enough to end what is under way, and to go on reading.
//
// Each allocation that fails takes a piece of the reserve and tries again. From the first one on
// used() says so, and the filesystem changes nothing any more. When all pieces are gone the process
// ends at once: that is a crash like any other, which loses nothing that was acknowledged.
#pragma once

#include <cstddef>

namespace daxfs {

// One at a time in a process: std::set_new_handler knows no object.
class MemoryReserve {
 public:
  // Address space that takes no memory before it is needed. Without it (a limit that is already
  // reached), the reserve is empty.
  MemoryReserve();
  ~MemoryReserve();
  MemoryReserve(const MemoryReserve&) = delete;
  MemoryReserve& operator=(const MemoryReserve&) = delete;

  // Thread-safe. Once true, stays so.
  static bool used();
};

}  // namespace daxfs
