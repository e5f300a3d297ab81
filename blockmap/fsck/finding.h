// What a check can find, how bad it is, and the report that collects it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace daxfs::fsck {

enum class Severity : std::uint8_t {
  harmless,    // no damage: what a crash interrupted, and every mount finishes
  repairable,  // damage, but everything is known: the repair loses nothing
  loss,        // something is gone: data, a name, attributes; the repair says what
  fatal,       // cannot be repaired
};
inline constexpr std::size_t kSeverities = 4;
std::string_view to_string(Severity severity);

// docs/fsck.md has a row for each.
enum class Code : std::uint8_t {
  superblock,
  journal_pending,
  journal_lane,
  pool_state,
  chunk_index,
  inode_record,
  inode_fields,
  free_slot,
  root,
  extent_record,
  extent_overlap,
  extent_chain,
  block_count,
  xattrs,
  acl,
  symlink,
  pin_blocks,
  pin_record,
  shared_blocks,
  directory_extents,
  directory_size,
  entry_damaged,
  entry_dangling,
  entry_type,
  entry_doubled,
  directory_names,
  directory_loop,
  unreachable,
  parent,
  links,
  orphan,
  detach,
  medium,
};
// As in the report and in docs/fsck.md: "extent-chain".
std::string_view to_string(Code code);

struct Finding {
  Code code;
  Severity severity;
  std::string object;  // "inode 17", "journal lane 3"
  std::string text;    // what is wrong, and what the repair does about it
  bool fixed = false;  // false: left as it was
};

struct Report {
  // A hostile image can produce as many findings as it has bytes: the first ones are kept, all are
  // counted.
  static constexpr std::size_t kMostFindings = 10'000;
  std::vector<Finding> findings;
  std::array<std::uint64_t, kSeverities> counts{};
  std::uint64_t fixed = 0;
  std::uint64_t left = 0;  // not harmless, and not fixed
  bool cancelled = false;

  std::uint64_t files = 0;
  std::uint64_t directories = 0;
  std::uint64_t data_blocks = 0;
  std::uint64_t free_blocks = 0;
  std::uint64_t pins = 0;         // of living processes
  std::uint64_t kept_blocks = 0;  // of no file, but kept by these pins

  std::uint64_t count(Severity severity) const {
    return counts[static_cast<std::size_t>(severity)];
  }
  bool damaged() const {
    return count(Severity::repairable) + count(Severity::loss) + count(Severity::fatal) != 0;
  }
};

// Told how far the work of a phase is, in whatever it counts.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void advance(std::string_view phase, std::uint64_t done, std::uint64_t total) = 0;
};

struct Options {
  // Repairs up to this severity are made: `repairable` is what is safe without asking.
  Severity repair_up_to = Severity::loss;
  // The medium is a copy that nobody sees: the pool is only looked at.
  bool private_copy = false;
  Progress* progress = nullptr;
  // Set by a signal: the work ends between two repairs.
  const std::atomic<bool>* cancelled = nullptr;
  // The first place from here on that may hold anything but zeroes; empty: this one. Reading the
  // holes of a sparse pool can fill them (tmpfs).
  std::function<PoolOffset(PoolOffset)> next_data;
  // Whether the pin with this number is locked (pin_lock.h); empty: none is.
  std::function<bool(std::uint64_t)> locked;
};

}  // namespace daxfs::fsck
