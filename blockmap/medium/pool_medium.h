// The medium over a mapped pool: libpmem2 does the copying and flushing, and where the mapping is
// no persistent memory, msync makes things durable.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// What the mapping promises (libpmem2's granularity), as shown at mount and by daxfsctl.
enum class Granularity { byte, cache_line, page };
std::string_view to_string(Granularity granularity);

struct MappedPool {
  std::unique_ptr<Medium> medium;  // unmaps when it goes
  Granularity granularity;
  bool emulated;  // flushes the CPU's caches, but what lies below them is no persistent memory
};

// Maps the first `length` bytes (a multiple of a block) of an open pool, shared. `fd` has to stay
// open for as long as the medium lives. `unit` is the smallest piece of the mapping that can be
// replaced (lost_pages.h). tmpfs is mapped with cache-line granularity, because msync does nothing
// there: that way an emulated pool goes through the code that real persistent memory needs.
// PMEM2_FORCE_GRANULARITY (libpmem2(7)) overrides that. Call before other threads run: it may
// change the environment for the moment.
Outcome<MappedPool> map_pool(int fd, const std::string& path, ByteCount length, std::uint64_t unit,
                             bool read_only);

}  // namespace daxfs
