// One descriptor of the program whose file is attached. It is found without a lock, may be closed
// by one thread while others read through it, and is never unmapped: it waits to be used again.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "client/direct_inside.h"
#include "client/doorbell.h"
#include "tools/run/counting.h"

namespace daxfs::run {

struct File {
  dev_t device;
  ino_t inode;
  bool operator==(const File&) const = default;
};

struct Opened {
  daxfs_direct* direct;  // null: only `own` has to be kept
  int own;               // the library's descriptor of the file
  File file;
  std::atomic<bool> appends;  // O_APPEND: the kernel knows where
  std::atomic<bool> dead;     // its descriptor is closed
  std::atomic<bool> reaped;
  std::atomic<bool> never_again;    // in a child: not to be attached anew
  std::atomic<unsigned> by_parent;  // calls of a child with what its parent has attached
  // Of calls that find the file closed for copies, milliseconds; 0: none.
  std::atomic<std::int64_t> closed_since;  // since when all of them have
  std::atomic<std::int64_t> left_until;    // the program's own descriptor is used
  Opened* next;                            // of all
  struct alignas(64) Users {
    std::atomic<unsigned> count;
  };
  std::array<Users, client::kLanes> users;  // threads that are in a call just now

  // Behind what locks new ones out: `dead`, or another word in the descriptor's place.
  bool is_used() const {
    if (client::asks_for_barriers() && !doorbell::make_barriers()) return true;
    for (const Users& some : users) {
      if (some.count.load(std::memory_order_seq_cst) != 0) return true;
    }
    return false;
  }
};

// Null: it goes by system call, and is `*otherwise` (descriptors.h). Within a Registry.
Opened* attach(int fd, std::uintptr_t* otherwise);
// Gives everything back if nobody uses it any more; else the last who does will.
void reap(Opened& opened);

// No process may hold a POSIX lock (F_SETLK) and close any descriptor of that file: the lock would
// go. So from now on the library closes none but when the program closes one of the same file.
void note_posix_lock();
bool may_close_own();
// Threads have descriptors of their own from now on: numbers do not say any more what they are.
void attach_no_more();

// Locks out all who attach and detach, for as long as it lives; not in a signal handler that has
// interrupted one of them.
class Registry {
 public:
  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;
};

// The program maps this file: from now on none of its descriptors is attached.
void note_mapped_file(const File& file);

// When this library is loaded.
void watch_forks();
// A vfork() child, which is in its parent's memory, and has descriptors of its own.
bool is_in_parents_memory();

}  // namespace daxfs::run
