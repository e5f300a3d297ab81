// What a thread may do beyond its user and group, as /proc says it: for rules that the kernel
// leaves to a FUSE server without saying who asks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

namespace daxfs {

struct Credentials {
  std::vector<gid_t> groups;       // supplementary
  std::uint64_t capabilities = 0;  // effective, in this process's user namespace

  bool has(unsigned capability) const { return (capabilities >> capability & 1) != 0; }
  bool is_in(gid_t group) const;
};

// Of a thread that is waiting for an answer. None where it cannot be seen. A thread of another user
// namespace has no capabilities here.
Credentials credentials_of(pid_t thread);

}  // namespace daxfs
