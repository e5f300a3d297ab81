// What is going on at a mount at one moment, in few numbers: what `daxfsctl top` shows.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "tools/ctl/query.h"
#include "tools/ctl/waiting.h"

namespace daxfs::ctl {

// All that one process holds.
struct Holding {
  std::int64_t process = 0;  // 0: of another pid namespace
  std::string command;
  std::uint64_t long_pins = 0;
  std::uint64_t short_pins = 0;
  std::uint64_t bytes = 0;  // the sum over its pins
  std::uint64_t leases = 0;
  std::uint64_t breaking = 0;  // of these
  std::uint64_t holds_up = 0;  // requests that wait for it
  std::uint64_t in_grace = 0;  // pins that it has left behind
  double since = 0;            // of its oldest pin, in seconds since 1970; 0: has none
  std::string path;            // of one of its files
  std::uint64_t files = 0;
};

struct Snapshot {
  std::chrono::steady_clock::time_point taken;
  Json status;
  std::vector<Holding> holders;  // by process
  // The first of them, as the daemon has them.
  static constexpr std::size_t kMostLeases = 200;
  std::vector<Json> leases;
  WhoWaits waiting;
  std::uint64_t limbo_pieces = 0;
  double limbo_since = 0;  // of the oldest piece, in seconds since 1970; 0: limbo is empty
  // What has happened at the gate since the mount, by event.
  std::map<std::string, std::uint64_t> events;
};

// Costs the daemon a walk over all pins, and us a hundred bytes for each process.
Outcome<Snapshot> take_snapshot(const Mount& mount);

}  // namespace daxfs::ctl
