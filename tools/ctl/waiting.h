// Requests that wait at the gate, and for whom.
//
// The daemon says who waits for which range of which file; pins and leases over that range are what
// it waits for, and are listed as well. What a user may not see of others is not told here either.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {

// A process in the way.
struct InTheWay {
  std::int64_t process = 0;
  std::string command;
  std::uint64_t pins = 0;
  std::uint64_t leases = 0;
};

struct WaitingRequest {
  Json request;  // as the daemon has it
  std::vector<InTheWay> waits_for;
  // Of a pin or a lease: the detaches before it, by their `id`.
  std::vector<std::uint64_t> behind;
};

// Joins reports. Add the waiting requests first.
class WhoWaits {
 public:
  void add_request(const Json& request);
  void add_pin(const Json& pin) { add(pin, &InTheWay::pins); }
  void add_lease(const Json& lease) { add(lease, &InTheWay::leases); }
  const std::vector<WaitingRequest>& requests() const { return requests_; }

 private:
  void add(const Json& held, std::uint64_t InTheWay::*count);
  std::vector<WaitingRequest> requests_;
  std::multimap<std::uint64_t, std::size_t> by_inode_;  // detaches only
};

// Asks for all three reports: pins and leases only if anybody waits.
Outcome<WhoWaits> who_waits(const Mount& mount);
// "pid 4711 (daxfs-hold), 2 pins; pid 4712 (x), a lease", at most so many processes.
std::string in_words(const WaitingRequest& request, std::size_t most = 3);

// With `waits_for` and `behind`.
Json as_json(const WaitingRequest& request);

Outcome<void> show_waiting(const std::string& path, bool json);

}  // namespace daxfs::ctl
