// The layout leases of a holder: over all that it holds, and over nothing else.
#pragma once

#include <cstdint>
#include <map>

#include "base/result.h"
#include "base/units.h"
#include "tools/hold/options.h"

namespace daxfs::hold {

// Not thread-safe.
class Leases {
 public:
  Leases(int file, const Options& options) : file_(file), options_(options) {}
  Leases(const Leases&) = delete;
  Leases& operator=(const Leases&) = delete;
  ~Leases();

  // Waits behind a waiting detach (see PinnedRange::take()).
  Outcome<std::uint64_t> take(FileRange range);

  // To be called before the pins of `range` are given up: takes leases for what would be cut off.
  // Returns what is to be given up: more than `range` if that was not possible at the moment.
  FileRange split_at(FileRange range);
  // Precondition: split_at() returned it. No pin is left there.
  Outcome<void> give_up(FileRange range);
  Outcome<void> release();

  // Whether a request still waits for it. True where the daemon does not say.
  bool is_asked_for(std::uint64_t lease) const;

  // The daemon has taken it, or has died.
  void revoked(std::uint64_t lease) { leases_.erase(lease); }
  void forget() { leases_.clear(); }

 private:
  Outcome<void> shrink(std::uint64_t lease, FileRange range);
  Outcome<void> unlease(std::uint64_t lease);
  Outcome<void> tolerate(int code) const;

  const int file_;
  const Options& options_;
  std::map<std::uint64_t, FileRange> leases_;
};

}  // namespace daxfs::hold
