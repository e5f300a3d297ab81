// Extended attributes: read as a whole, written as a whole (copy on write), so that a change is
// atomic.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

using XattrMap = std::map<std::string, std::string>;

inline constexpr std::size_t kMaxXattrBytes = 256 << 10;  // per inode, names and values and headers

// Thread-safe for different inodes; the inode's lock guards one inode.
// EUCLEAN if the run is damaged. An inode without attributes gives an empty map.
Result<XattrMap> load_xattrs(const Medium& medium, InodeNumber inode,
                             const pmem::InodeRecord& record, PoolRange data_area);

// The run of blocks that holds an inode's attributes (empty if none).
PoolRange xattr_run(const pmem::InodeRecord& record);

// Writes `attributes` to a new run (durable on return) and points `record` to it; the caller stages
// and commits the record and then frees `released`. ENOSPC (also for more than kMaxXattrBytes)
// changes nothing. An empty map drops the run.
Status replace_xattrs(Medium& medium, Allocator& allocator, InodeNumber inode,
                      pmem::InodeRecord& record, const XattrMap& attributes,
                      std::vector<PoolRange>& released);

// Attributes that are written, and that no record has yet. Not thread-safe; the inode's lock
// outlives it.
class WrittenXattrs {
 public:
  // ENOSPC, and nothing has changed. `record` is the inode's as it is; with none, a new one's.
  static Result<WrittenXattrs> write(Medium& medium, Allocator& allocator, InodeNumber inode,
                                     const pmem::InodeRecord& record, const XattrMap& attributes);
  WrittenXattrs(WrittenXattrs&& other) noexcept;
  WrittenXattrs& operator=(WrittenXattrs&&) = delete;
  // What nobody needs is free: what was written, or, once a record has it, what the record had
  // before. So that record has been committed by then.
  ~WrittenXattrs();

  // For the inode's record, to be staged and committed by the caller.
  void show_in(pmem::InodeRecord& record);

 private:
  WrittenXattrs(Allocator& allocator, const pmem::InodeRecord& record)
      : allocator_(&allocator), block_(record.xattr_block), bytes_(record.xattr_bytes) {}

  Allocator* allocator_;
  std::uint64_t block_;
  std::uint64_t bytes_;
  std::vector<PoolRange> unneeded_;
};

}  // namespace daxfs
