// libdaxfs: what an attached descriptor maps of the pool: its doorbell, and all of the pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "client/daxfs.h"
#include "client/direct_copy.h"
#include "client/doorbell.h"

namespace daxfs::client {

// All of the pool, shared by all who map it in this process.
struct SharedPool {
  std::uint64_t device;
  std::uint64_t inode;
  Mapping mapped;
  std::size_t users;
  SharedPool* next;
  std::atomic<bool> lost;  // some of its storage has gone: nobody copies any more
};

struct Attached {
  daxfs_attach_args terms = {};
  Mapping around;  // the doorbell, and what has to be mapped with it
  doorbell::Page* page = nullptr;
  SharedPool* pool = nullptr;
  Guard guard;  // of both
};

// Attaches the descriptor, and maps both. False with errno, and nothing is left: as daxfs_attach().
bool attach_and_map(int fd, Attached* out);
// Unmaps, and tells the daemon.
void unmap_and_detach(int fd, Attached* attached);

// In a forked child nothing of the parent's is mapped any more. Said without a system call, by a
// page that a fork empties.
extern std::uint64_t* fork_page;
inline bool is_forked_since(std::uint64_t generation) { return *fork_page != generation; }
std::uint64_t fork_generation();  // of this process; 0 with errno: it cannot be told

}  // namespace daxfs::client
