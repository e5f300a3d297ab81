// Clients of direct access that read and write a few files all the time, beside others that
// truncate, punch, rename over and refill them, and who take all the space that becomes free. Every
// 64 bytes say whose they are, so foreign bytes are found wherever they turn up.
#pragma once

#include <cstdint>
#include <string>

namespace daxfs::test {

struct DirectRun {
  double seconds = 1;
  int readers = 1;
  int writers = 1;
  bool stop_clients = false;  // SIGSTOP and SIGCONT, now and then
  bool kill_clients = false;  // kill -9, and others in their place
  bool daemon_dies = false;   // somebody kills it and mounts again, all the time
};

struct DirectFound {
  std::uint64_t direct = 0;     // copies that clients made by themselves
  std::uint64_t by_kernel = 0;  // and those that they had made
  std::uint64_t detaches = 0;   // that went ahead
  std::uint64_t refused = 0;
  std::uint64_t foreign = 0;  // lines of 64 bytes that are another file's, seen by anybody
  std::string first;          // of these, for people
};

// Runs it in a mount with the option `direct`, which it has for itself; its files are gone
// afterwards. std::runtime_error: a call has failed that must not.
DirectFound run_direct(const std::string& mount, const DirectRun& run);

}  // namespace daxfs::test
