// What is not as it should be with a mount, and what to do about it: in `status`, and in words of
// daxfsctl status. tools/watch/alerts.yml has the same as rules for Prometheus.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "lease/policy.h"

namespace daxfs {

// What is known of the mount, at about one moment.
struct MountState {
  std::string pool;
  std::string mountpoint;
  std::string stopped;           // why nothing is changed any more; "": changes go on
  std::uint64_t unreadable = 0;  // reads that met missing or damaged storage
  GateOptions policy;
  ByteCount total;
  ByteCount free;
  ByteCount limbo;
  std::chrono::seconds longest_wait{};                // of the requests at the gate
  bool needs_msync = false;                           // granularity `page`
  std::optional<std::chrono::seconds> request_limit;  // kernel_request_limit()
};

struct Degraded {
  std::string what;     // a word for programs, the same for ever
  std::string text;     // what it means for who uses the mount
  std::string way_out;  // what to do
};

// The worst first; none: all is well.
std::vector<Degraded> what_is_degraded(const MountState& now);

}  // namespace daxfs
