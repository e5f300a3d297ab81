// What one inode owns, read straight from the medium. Nothing on the medium is trusted.
#pragma once

#include <absl/functional/function_ref.h>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// Whether a mode names one of the seven file types.
bool is_file_type(std::uint16_t mode);
// Everything but generation, checksum and times.
bool is_empty_slot(const pmem::InodeSlot& slot);

// A slot whose times may change meanwhile (nothing else of it).
pmem::InodeSlot load_slot(const Medium& medium, PoolOffset place);

// Thread-safe: only reads.
class InodeWalk {
 public:
  InodeWalk(Medium& medium, Allocator& allocator, PoolRange data_area)
      : medium_(medium), allocator_(allocator), data_area_(data_area) {}

  // What is wrong with a slot, for a message; nullptr if nothing is. A free slot (mode == 0) must
  // be empty, because the next inode in it relies on that.
  const char* damage(const pmem::InodeSlot& slot) const;

  // Calls `visit` for each run of blocks that the inode owns: extents, extent blocks and extended
  // attributes. False if its extents do not hold together. Precondition: no damage().
  bool for_each_run(InodeNumber inode, PoolOffset place, const pmem::InodeSlot& slot,
                    absl::FunctionRef<void(PoolRange)> visit) const;

 private:
  bool visit_inline(InodeNumber inode, const pmem::InodeSlot& slot,
                    absl::FunctionRef<void(PoolRange)> visit) const;

  Medium& medium_;
  Allocator& allocator_;
  const PoolRange data_area_;
};

}  // namespace daxfs
