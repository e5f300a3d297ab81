// Every pin, by its holder and id.
//
// One holder may have a million of them, so a record is small: who and what file is stored once for
// all pins that agree on it, and a pin's first range lies in the record itself (most have one
// only).
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/inlined_vector.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "blockmap/units.h"
#include "lease/gate.h"

namespace daxfs {

// Not thread-safe (the gate's lock guards it).
class PinTable {
 public:
  using Time = std::chrono::system_clock::time_point;

  // What many pins of a holder have in common.
  struct Source {
    InodeNumber inode;
    pid_t process;
    uid_t uid;
    auto operator<=>(const Source&) const = default;
  };
  using Sources = std::map<Source, std::uint64_t>;  // how many pins share it

  class Pin {
   public:
    std::span<const PoolRange> blocks() const { return blocks_; }
    PinKind kind() const { return short_term_ ? PinKind::short_term : PinKind::long_term; }
    pid_t process() const { return source_->first.process; }

   private:
    friend class PinTable;
    Sources::value_type* source_;
    FileOffset offset_;
    ByteCount length_;
    absl::InlinedVector<PoolRange, 1> blocks_;
    std::uint64_t since_us_ : 62;
    bool short_term_ : 1;
    bool write_ : 1;
  };

  PinId add(const PinRequest& request, Time since);
  // Null if this holder has no such pin.
  const Pin* find(HolderId holder, PinId pin) const;
  // Precondition: find() says that it is there.
  void remove(HolderId holder, PinId pin);
  // Up to `limit` pins of this holder.
  std::vector<PinId> some_of(HolderId holder, std::size_t limit) const;
  // Precondition: the holder has no pins.
  void forget(HolderId holder) { holders_.erase(holder.value); }

  static PinInfo info(HolderId holder, PinId id, const Pin& pin);
  // Up to `limit` pins with id > after, ascending. O(holders + limit).
  std::vector<PinInfo> after(PinId after, std::size_t limit) const;

 private:
  struct Holder {
    absl::btree_map<PinId, std::unique_ptr<Pin>> pins;
    Sources sources;
  };

  // Holders stay until forget(), so that one who pins and unpins all the time costs little.
  absl::flat_hash_map<std::uint64_t, std::unique_ptr<Holder>> holders_;
  std::uint64_t last_id_ = 0;
};

}  // namespace daxfs
