// A counted interval map: how many of the added ranges cover each block, and a sum of their owners'
// tags.
//
//        A  |=========|
//        B       |=========|
//  segments | 1  | 2  | 1  |     a border only where count or owners change; count 0 is absent
//
// The sum answers "do all these ranges belong to one owner?" in one comparison, without a list of
// owners per segment: with random 64-bit tags, count * tag equals the sum only if they do.
#pragma once

#include <absl/container/btree_map.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/units.h"

namespace daxfs {

// Not thread-safe.
class CountedRanges {
  // 32 bits for the length keep a segment, key included, at 24 bytes; longer ones are cut.
  struct Segment {
    std::uint32_t blocks;
    std::uint32_t pins;
    std::uint64_t owners;
  };
  using Segments = absl::btree_map<PoolBlock, Segment>;

 public:
  struct Count {
    std::uint32_t pins = 0;
    std::uint64_t owners = 0;  // sum of the tags, modulo 2^64
    constexpr bool operator==(const Count&) const = default;
    constexpr bool all_by(std::uint64_t tag) const { return owners == pins * tag; }
  };

  void add(PoolRange range, std::uint64_t owner);
  // Precondition: the range was added by this owner. Appends what nothing covers any more.
  void remove(PoolRange range, std::uint64_t owner, std::vector<PoolRange>& cleared);
  std::size_t segments() const { return segments_.size(); }

  // Walks over the segments in order; valid until the next change.
  class Cursor {
   public:
    bool done() const { return it_ == end_; }
    PoolBlock start() const { return it_->first; }
    PoolBlock end() const { return it_->first + BlockCount(it_->second.blocks); }
    Count count() const { return {it_->second.pins, it_->second.owners}; }
    void next() { ++it_; }

   private:
    friend class CountedRanges;
    using Iterator = Segments::const_iterator;
    Cursor(Iterator it, Iterator end) : it_(it), end_(end) {}
    Iterator it_;
    Iterator end_;
  };
  // At the first segment that ends behind `block`.
  Cursor from(PoolBlock block) const;

 private:
  static PoolBlock end_of(const Segments::value_type& segment) {
    return segment.first + BlockCount(segment.second.blocks);
  }
  Segments::iterator first_ending_after(PoolBlock block);
  void insert(Segments::iterator next, PoolRange gap, std::uint64_t owner);
  void split_at(PoolBlock border);
  void merge_at(PoolBlock border);

  Segments segments_;
};

}  // namespace daxfs
