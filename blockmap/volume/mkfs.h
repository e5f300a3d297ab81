// Lays an empty filesystem onto a medium (the library behind mkfs.daxfs).
#pragma once

#include <array>
#include <cstdint>

#include "base/result.h"
#include "blockmap/format.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

struct MakeOptions {
  std::array<std::uint8_t, 16> uuid;
  std::uint32_t root_uid = 0;
  std::uint32_t root_gid = 0;
  std::uint16_t root_mode = 0755;
  std::int64_t now_ns = 0;
};

// Writes superblocks, state, an empty journal and the root directory; durable on return. Does not
// look at what was there before. Cost: a few hundred KiB written, whatever the size of the medium.
// The superblock comes last, so that an interrupted mkfs leaves no pool behind (an old superblock
// is invalidated first). EINVAL as a Problem if the medium is smaller than pmem::kMinPoolBytes.
Outcome<void> make_filesystem(Medium& medium, const MakeOptions& options);

// The geometry that a medium of this size gets (for mkfs's report and for tests).
pmem::Superblock plan_geometry(BlockCount total);

}  // namespace daxfs
