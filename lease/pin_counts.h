// How many pins cover each block of the pool, and whether one process has them all.
//
// One counted interval map per kind of pin (counted_ranges.h); looked at together they are:
//
//        pin A  |=========|                long-term
//        pin B       |=========|           short-term
//       counts  | 1,0| 1,1| 0,1|           borders only where a count changes; 0,0 is absent
#pragma once

#include <absl/functional/function_ref.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/units.h"
#include "lease/counted_ranges.h"

namespace daxfs {

enum class PinKind : std::uint8_t { long_term, short_term };

struct PinCounts {
  std::uint32_t long_term = 0;
  std::uint32_t short_term = 0;
  constexpr bool operator==(const PinCounts&) const = default;
  constexpr bool none() const { return long_term == 0 && short_term == 0; }
};

// Which pins a request waits for.
enum class Awaited : std::uint8_t { short_term, any };

// Not thread-safe (the gate's lock guards it). add and remove are O((1 + segments) log n).
class PinCountMap {
 public:
  // What covers a block.
  struct Cover {
    CountedRanges::Count long_term;
    CountedRanges::Count short_term;
    PinCounts counts() const { return {long_term.pins, short_term.pins}; }
    bool has(Awaited awaited) const {
      return short_term.pins > 0 || (awaited == Awaited::any && long_term.pins > 0);
    }
  };

  PinCountMap();

  void add(PoolRange range, PinKind kind, pid_t process);
  // Precondition: the range was added with this kind and process. Appends the pieces whose counts
  // are now all zero.
  void remove(PoolRange range, PinKind kind, pid_t process, std::vector<PoolRange>& unpinned);

  // Visits the pinned segments that overlap `range`, cut to it, in order.
  void for_each(PoolRange range, absl::FunctionRef<void(PoolRange, PinCounts)> visit) const;
  // The same, with owners (so segments may be shorter); stops when `visit` returns false.
  void walk(PoolRange range, absl::FunctionRef<bool(PoolRange, const Cover&)> visit) const;
  bool any(PoolRange range) const;
  Cover at(PoolBlock block) const;

  // Whether one of the awaited pins belongs to another process. Nobody is process 0: the kernel
  // says 0 for callers from elsewhere, so two of these need not be the same.
  bool foreign(const Cover& cover, Awaited awaited, pid_t process) const;

  std::size_t segments() const { return long_.segments() + short_.segments(); }

 private:
  std::uint64_t tag_of(pid_t process) const;
  CountedRanges& of(PinKind kind) { return kind == PinKind::long_term ? long_ : short_; }

  CountedRanges long_;
  CountedRanges short_;
  std::uint64_t secret_;
  std::vector<PoolRange> cleared_;  // scratch of remove()
};

}  // namespace daxfs
