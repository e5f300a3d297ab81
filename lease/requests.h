// What is asked of the gate, and by whom.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/units.h"
#include "lease/pin_counts.h"
#include "lease/policy.h"

namespace daxfs {

using SteadyTime = std::chrono::steady_clock::time_point;

// An open file description that takes pins and leases. Created by the gate's user, one per open
// file; ids never repeat.
struct HolderId {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const HolderId&) const = default;
};
struct PinId {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const PinId&) const = default;
};
struct LeaseId {
  std::uint64_t value = 0;  // 0: none
  constexpr auto operator<=>(const LeaseId&) const = default;
};

struct Requester {
  pid_t process = 0;  // the thread group, not the thread
  uid_t uid = 0;
  // As ProcessMark: tells it from a later one with the same number. 0: that cannot be told.
  std::uint64_t start_ticks = 0;
};

// (The last close of an unlinked file is no request: Gate::detached_unasked().)
enum class DetachReason : std::uint8_t { truncate, punch, rename_over };

// What a request that waits would do.
enum class Wish : std::uint8_t { truncate, punch, rename_over, pin, lease };
constexpr Wish wish_of(DetachReason reason) { return static_cast<Wish>(reason); }
static_assert(wish_of(DetachReason::rename_over) == Wish::rename_over);

// The words of docs/promises.md.
constexpr std::string_view to_string(Wish wish) {
  switch (wish) {
    case Wish::truncate:
      return "truncate";
    case Wish::punch:
      return "punch";
    case Wish::rename_over:
      return "rename";
    case Wish::pin:
      return "pin";
    case Wish::lease:
      return "lease";
  }
  return "";
}

struct DetachRequest {
  // The open file description through which it is asked: its own leases are not in the way,
  // whichever process asks (a child may have inherited the descriptor). None: asked by path.
  std::optional<HolderId> holder = {};
  InodeNumber inode = {};
  FileRange range = {};                    // what is fenced while it waits
  std::span<const PoolRange> blocks = {};  // what would leave the file; any order
  Requester requester = {};
  DetachReason reason = DetachReason::punch;
  // If it waits for longer than this, it ends with EINTR. 0: as long as the policy says.
  std::chrono::milliseconds longest{0};
  std::optional<PinPolicy> policy = {};  // the file's own; else the mount's
  // As asked for, in bytes: for people (events).
  FileOffset offset = {};
  ByteCount length = {};
};

struct PinRequest {
  HolderId holder;
  InodeNumber inode;
  FileOffset offset;  // as asked for, in bytes
  ByteCount length;
  std::span<const PoolRange> blocks;  // in file order
  Requester requester;
  PinKind kind = PinKind::long_term;
  bool write = false;
  bool nowait = false;
  bool recorded = false;  // Gate::record_pin() or undo_pin() will follow
  // It queues behind every detach that waits for the file, not only for its range.
  bool behind_all = false;
};

struct LeaseRequest {
  HolderId holder;
  InodeNumber inode;
  FileOffset offset;
  ByteCount length;
  Requester requester;
  bool exclusive = false;
  bool nowait = false;
};

}  // namespace daxfs
