// Every pin, by its holder and id.
//
// One holder may have a million of them, so a record is small: who and what file is stored once for
// all pins that agree on it, and a pin's first range lies in the record itself (most have one
// only).
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/inlined_vector.h>
#include <absl/functional/function_ref.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/units.h"
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
    std::uint64_t start_ticks;
    auto operator<=>(const Source&) const = default;
  };
  using Sources = std::map<Source, std::uint64_t>;  // how many pins share it

  class Pin {
   public:
    std::span<const PoolRange> blocks() const { return blocks_; }
    PinKind kind() const { return short_term_ ? PinKind::short_term : PinKind::long_term; }
    pid_t process() const { return source_->first.process; }
    std::uint64_t record() const { return record_; }

   private:
    friend class PinTable;
    Sources::value_type* source_;
    FileOffset offset_;
    ByteCount length_;
    absl::InlinedVector<PoolRange, 1> blocks_;
    std::uint64_t record_ = 0;
    std::uint64_t since_us_ : 61;
    bool short_term_ : 1;
    bool write_ : 1;
    bool hidden_ : 1;
  };

  // Pins are numbered behind `last`.
  explicit PinTable(PinId last) : last_id_(last.value) {}

  PinId next_id() { return PinId{++last_id_}; }
  void add(const PinInfo& info, std::span<const PoolRange> blocks);
  // Null if this holder has no such pin, or it is hidden.
  const Pin* find(HolderId holder, PinId pin) const;
  // Precondition for the following: the pin is there.
  const Pin& find_hidden(HolderId holder, PinId pin) const;  // or not hidden
  void remove(HolderId holder, PinId pin);
  // While its record comes or goes find() does not see it. Returns its record.
  std::uint64_t hide(HolderId holder, PinId pin);
  void show(HolderId holder, PinId pin, std::uint64_t record);
  // False if `from` has no such pin.
  bool move(HolderId from, PinId pin, HolderId to);
  // Up to `limit` pins of this holder that are not hidden.
  std::vector<PinId> some_of(HolderId holder, std::size_t limit) const;
  // Whether `is` holds for the range of one of the holder's long-term pins of this file.
  bool any_long(HolderId holder, InodeNumber inode, absl::FunctionRef<bool(FileRange)> is) const;
  // Its process has ended and the pins stay: see Gate::leave(). Visits each of them.
  void leave(HolderId holder, absl::FunctionRef<void(const Pin&)> visit);
  // The same of a holder that has pins, which are counted so already.
  void set_left(HolderId holder);
  bool has_left(HolderId holder) const;
  std::vector<PinId> pins_of(HolderId holder) const;
  // Precondition: the holder has no pins.
  void forget(HolderId holder);

  static PinInfo info(HolderId holder, PinId id, const Pin& pin);
  // Up to `limit` pins with id > after, ascending. O(holders + limit).
  std::vector<PinInfo> after(PinId after, std::size_t limit) const;

 private:
  struct Holder {
    absl::btree_map<PinId, std::unique_ptr<Pin>> pins;
    Sources sources;
    bool left = false;
  };

  // Holders stay until forget(), so that one who pins and unpins all the time costs little.
  absl::flat_hash_map<std::uint64_t, std::unique_ptr<Holder>> holders_;
  Pin* get(HolderId holder, PinId pin) const;
  Pin& known(HolderId holder, PinId pin) const;

  std::uint64_t last_id_;
};

}  // namespace daxfs
