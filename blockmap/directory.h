// The entries of one directory: a name index in DRAM over granules on the medium (format.h).
//
// Entries never move, so an entry's place is a stable readdir cookie. Names are not copied to DRAM:
// the index holds places and compares names where they lie.
//
// Not thread-safe: the directory inode's lock guards it. Changes are staged in the caller's
// transaction, which must then be committed; everything that can fail (prepare_insert) comes first.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/extent_map.h"
#include "blockmap/format.h"
#include "blockmap/journal.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

class Directory {
 public:
  struct Entry {
    InodeNumber inode;
    std::uint8_t type;      // DT_*
    std::string_view name;  // lies in the pool; valid until the entry is changed
    std::uint64_t cookie;   // continue behind this entry
  };

  // Builds the index; EUCLEAN for damaged entries or doubled names. `extents` must outlive it and
  // belong to the same inode.
  static Result<std::unique_ptr<Directory>> load(Medium& medium, Allocator& allocator,
                                                 InodeNumber inode, ExtentMap& extents);
  ~Directory();

  std::optional<Entry> find(std::string_view name) const;
  bool empty() const;
  std::size_t size() const;

  // The first entry behind `cookie` (0: from the start), in the order of their places. nullopt: the
  // end.
  // "." and ".." are not stored and not returned; cookies are > 2, so callers can use 1 and 2 for
  // them.
  std::optional<Entry> next(std::uint64_t cookie) const;

  // In which granules of a block entries begin, a bit each, as the index has it (checks).
  std::uint64_t starts_in(FileBlock block) const;

  // Makes room for one more entry of that name length: may allocate and zero a directory block
  // (durable before commit) and stage its extent; record.size, blocks, extent_block change then,
  // and the caller stages the record. ENOSPC changes nothing. Precondition: 1 <= length <= 255.
  Status prepare_insert(Transaction& tx, pmem::InodeRecord& record, std::size_t name_length);
  // Precondition: prepare_insert() succeeded just before for this length; the name is not there.
  void insert(Transaction& tx, std::string_view name, InodeNumber inode, std::uint8_t type);
  // Points an existing name to another inode.
  void replace(Transaction& tx, std::string_view name, InodeNumber inode, std::uint8_t type);
  // Removes an existing name. A block that becomes empty leaves the directory: record.blocks (and
  // size, if it was the last block) change, and its pool range is appended to `released` for the
  // caller to free after the commit. The caller stages the record.
  void remove(Transaction& tx, pmem::InodeRecord& record, std::string_view name,
              std::vector<PoolRange>& released);

 private:
  struct Index;
  Directory(Medium& medium, Allocator& allocator, InodeNumber inode, ExtentMap& extents);
  // Takes an empty block out of the directory; false if there is no room for the split that it
  // needs.
  bool drop_block(Transaction& tx, pmem::InodeRecord& record, std::uint32_t number,
                  std::vector<PoolRange>& released);

  Medium& medium_;
  Allocator& allocator_;
  InodeNumber inode_;
  ExtentMap& extents_;
  std::unique_ptr<Index> index_;
};

}  // namespace daxfs
