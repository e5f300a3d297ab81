#include "blockmap/volume/detach.h"

#include <algorithm>
#include <span>

#include "blockmap/xattr.h"

namespace daxfs {
namespace {

// How many extents one transaction can unmap, beside the inode's record. One more slot than
// extents: the first extent may be split.
std::size_t batch_size(const Journal& journal) {
  constexpr std::size_t kRecordBytes = 2 * sizeof(pmem::InodeRecord);
  const std::size_t slots = (journal.capacity() - kRecordBytes) / ExtentMap::kStagedBytesPerSlot;
  return std::max<std::size_t>(slots, 2) - 1;
}

bool has_more_than(std::size_t limit, const ExtentMap& map, FileRange range) {
  if (map.size() <= limit) return false;
  std::size_t count = 0;
  FileBlock at = range.start;
  while (const auto extent = map.first_from(at)) {
    if (extent->file >= range.end()) break;
    if (++count > limit) return true;
    at = extent->end();
  }
  return false;
}

}  // namespace

void free_metadata(Volume& volume, std::span<const PoolRange> ranges) {
  for (const PoolRange& range : ranges) {
    // The mount saw to it that nobody else owns them; what went wrong since then may leak, not
    // abort.
    static_cast<void>(volume.allocator().free(range));
  }
}

Status prepare_detach(Volume& volume, InodeNumber inode, pmem::InodeRecord& record, ExtentMap& map,
                      FileRange range) {
  const auto extent = map.first_from(range.start);
  const bool splits =
      !range.empty() && extent && extent->file < range.start && range.end() < extent->end();
  if (!splits) return {};
  const std::uint64_t chain = record.extent_block;
  if (const auto reserved = map.reserve(record, 1); !reserved) return reserved;
  if (record.extent_block == chain) return {};
  Transaction tx;
  volume.inodes().stage(tx, inode, record);
  return volume.journal().commit(tx);
}

Status detach_extents(Volume& volume, InodeNumber inode, pmem::InodeRecord& record, ExtentMap& map,
                      FileRange range, std::vector<PoolRange>& removed) {
  Status committed;  // the last one counts: none succeeds behind one that failed
  const std::size_t batch = batch_size(volume.journal());
  Transaction tx;
  if (has_more_than(batch, map, range)) {
    record.detach_begin = range.start.value;
    record.detach_end = range.end().value;
    volume.inodes().stage(tx, inode, record);
    committed = volume.journal().commit(tx);
  }
  std::vector<PoolRange> chain;
  FileBlock at = range.start;
  do {
    tx.clear();
    if (!range.empty()) at = map.remove(tx, {at, range.end() - at}, batch, removed);
    record.blocks = map.mapped().value;
    if (at == range.end()) {
      record.detach_begin = 0;
      record.detach_end = 0;
      if (map.size() == 0) map.release_chain(record, chain);
    }
    volume.inodes().stage(tx, inode, record);
    committed = volume.journal().commit(tx);
  } while (at < range.end());
  free_metadata(volume, chain);
  return committed;
}

InodeRemains stage_end(Transaction& tx, Volume& volume, InodeNumber inode,
                       const pmem::InodeRecord& record, const ExtentMap& map) {
  InodeRemains remains{.data = map.physical(to_end(FileBlock(0))), .metadata = {}};
  for (const PoolBlock block : map.chain()) remains.metadata.push_back({block, BlockCount(1)});
  if (const PoolRange run = xattr_run(record); !run.empty()) remains.metadata.push_back(run);
  volume.inodes().stage_free(tx, inode, record);
  return remains;
}

Status free_inode(Volume& volume, InodeNumber inode, const pmem::InodeRecord& record,
                  ExtentMap& map, std::vector<PoolRange>& removed) {
  Transaction tx;
  const InodeRemains remains = stage_end(tx, volume, inode, record, map);
  const Status committed = volume.journal().commit(tx);
  map = ExtentMap(volume.medium(), volume.allocator(), inode, volume.inodes().slot(inode));
  removed.insert(removed.end(), remains.data.begin(), remains.data.end());
  free_metadata(volume, remains.metadata);
  volume.inodes().release(inode);
  return committed;
}

}  // namespace daxfs
