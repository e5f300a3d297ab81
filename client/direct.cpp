// libdaxfs: reading and writing an attached file without system calls (docs/direct-access.md). Each
// copy is counted in the doorbell while it lasts. What cannot be done so is a system call, which is
// always right; so is everything in a forked child.
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "client/daxfs.h"
#include "client/direct_copy.h"
#include "client/direct_extents.h"
#include "client/direct_inside.h"
#include "client/direct_map.h"
#include "client/doorbell.h"
#include "client/pool_file.h"
#include "client/thread_lanes.h"

using daxfs::client::Attached;
using daxfs::client::Extents;
using daxfs::client::Guarded;
using daxfs::client::kClosed;
using daxfs::client::kForked;
using daxfs::client::kLanes;
using daxfs::client::kSharedLane;
using daxfs::client::kUnable;
using daxfs::client::kUnknown;
using daxfs::doorbell::Attachment;
using daxfs::doorbell::Counting;
using daxfs::doorbell::Slot;

namespace {

// How often a closed file is asked about, where nothing says that it has been opened again.
constexpr std::int64_t kAskAgainNs = 100'000'000;
// Of reads that find a hole where there may be none any more, one in so many asks.
constexpr std::uint64_t kAskAboutHoles = 16;

// What transfer() says otherwise was not done, and why: by system call.
bool is_done(ssize_t result) { return result >= 0; }

std::int64_t now_ns(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// What one thread (or several: kSharedLane) has of a handle.
struct alignas(64) Lane {
  std::atomic<Slot*> slot;
  std::atomic<std::uint64_t> direct;
  std::atomic<std::uint64_t> by_kernel;
};

// Threads that share a lane may lose some.
void count(std::atomic<std::uint64_t>& of) {
  of.store(of.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

struct Request {
  bool write;
  const iovec* iov;
  int count;
  std::uint64_t offset;
  std::size_t length;
};

}  // namespace

struct daxfs_direct {
  Attached attached;
  int fd;
  bool readable;
  bool writable;  // at given places: not O_APPEND
  bool barriers;  // the daemon makes them, and this process wants them
  std::uint64_t generation;
  std::atomic<Extents*> extents;
  std::atomic<std::uint64_t> epoch;    // of these; odd: there are none
  std::atomic<std::uint64_t> refused;  // what the doorbell said before the daemon gave none
  std::atomic<std::int64_t> ask_at;    // not before, while it says that
  std::atomic<std::uint64_t> holes;    // reads that met one
  pthread_mutex_t refreshing;
  Extents* retired;
  Lane lanes[kLanes];
};

namespace {

constexpr std::uint64_t kNoEpoch = 1;

Attachment attachment_of(const daxfs_direct& direct) {
  return Attachment{direct.attached.terms.attachment};
}

// Whether this lane's threads count with plain stores.
Counting counting_in(const daxfs_direct& direct, const Lane& lane) {
  return direct.barriers && &lane != &direct.lanes[kSharedLane] ? Counting::alone
                                                                : Counting::shared;
}

// Null: none is free. None is two lanes': a thread that counts alone would lose what others count.
Slot* slot_of(daxfs_direct& direct, Lane& lane) {
  if (Slot* const known = lane.slot.load(std::memory_order_acquire)) return known;
  daxfs::doorbell::Page& page = *direct.attached.page;
  pthread_mutex_lock(&direct.refreshing);
  Slot* slot = lane.slot.load(std::memory_order_relaxed);
  if (slot == nullptr) {
    slot = daxfs::doorbell::claim(page, attachment_of(direct));
    if (slot == nullptr && !direct.barriers)
      slot = daxfs::doorbell::find(page, attachment_of(direct));
    lane.slot.store(slot, std::memory_order_release);
  }
  pthread_mutex_unlock(&direct.refreshing);
  return slot;
}

// Whether no thread of this process is in the middle of a copy. Those that begin after this was
// called use the extents that are there now.
bool is_at_rest(const daxfs_direct& direct) {
  if (direct.barriers && !daxfs::doorbell::make_barriers()) return false;
  for (const Lane& lane : direct.lanes) {
    const Slot* const slot = lane.slot.load(std::memory_order_seq_cst);
    if (slot != nullptr && slot->count.load(std::memory_order_seq_cst) != 0) return false;
  }
  return true;
}

void free_retired(daxfs_direct& direct) {
  while (Extents* const one = direct.retired) {
    direct.retired = one->next;
    std::free(one);
  }
}

// Whether the extents that are there are those of the doorbell's epoch.
bool is_fresh(const daxfs_direct& direct) {
  const std::uint64_t epoch = direct.epoch.load(std::memory_order_relaxed);
  return daxfs::doorbell::is_open(epoch) &&
         epoch == direct.attached.page->epoch.load(std::memory_order_seq_cst);
}

enum class Refresh : unsigned char { always, if_stale };

// Asks the daemon where the blocks are. Whether it has said so. Not while this thread copies.
bool refresh(daxfs_direct& direct, Refresh when) {
  pthread_mutex_lock(&direct.refreshing);
  // Another thread may have asked meanwhile.
  if (when == Refresh::if_stale && is_fresh(direct)) {
    pthread_mutex_unlock(&direct.refreshing);
    return true;
  }
  const std::uint64_t said = direct.attached.page->epoch.load(std::memory_order_seq_cst);
  Extents* const fresh = daxfs::client::ask_for_extents(direct.fd, direct.attached.terms.pin_id,
                                                        direct.attached.pool->mapped.length);
  Extents* const old =
      fresh == nullptr ? nullptr : direct.extents.exchange(fresh, std::memory_order_seq_cst);
  direct.epoch.store(fresh != nullptr ? fresh->epoch : kNoEpoch, std::memory_order_release);
  if (fresh == nullptr) {
    direct.refused.store(said, std::memory_order_relaxed);
    direct.ask_at.store(now_ns(CLOCK_MONOTONIC_COARSE) + kAskAgainNs, std::memory_order_relaxed);
  }
  if (old != nullptr) {
    old->next = direct.retired;
    direct.retired = old;
  }
  if (direct.retired != nullptr && is_at_rest(direct)) free_retired(direct);
  pthread_mutex_unlock(&direct.refreshing);
  return fresh != nullptr;
}

// Whether it is worth asking: `seen` is what the doorbell says now.
bool may_ask(const daxfs_direct& direct, std::uint64_t seen) {
  if (seen == daxfs::doorbell::kClosedForGood) return false;
  // It has been opened since the daemon was asked.
  if (daxfs::doorbell::is_open(seen) && (direct.epoch.load(std::memory_order_relaxed) != kNoEpoch ||
                                         direct.refused.load(std::memory_order_relaxed) != seen))
    return true;
  return now_ns(CLOCK_MONOTONIC_COARSE) >= direct.ask_at.load(std::memory_order_relaxed);
}

enum class Done : unsigned char {
  all,
  closed,   // the extents are not valid any more
  unknown,  // they do not say all
  never,    // no slot is free, or storage is lost: the daemon knows what is left of it
};

void copy_piece(const daxfs_direct& direct, bool write, std::byte* at, const Extents::Piece& piece,
                std::size_t length) {
  std::byte* const pool = direct.attached.pool->mapped.start;
  if (piece.zeroes) {
    std::memset(at, 0, length);
  } else if (write) {
    daxfs::client::copy_in(pool + piece.pool_offset, at, length);
  } else {
    daxfs::client::copy_out(at, pool + piece.pool_offset, length);
  }
}

// Copies the whole range, which is known: all of it is written, or (reading) reads as zeroes.
void copy_all(const daxfs_direct& direct, const Extents& extents, const Request& request,
              std::size_t length) {
  std::size_t done = 0;
  for (int i = 0; i < request.count && done < length; ++i) {
    auto* at = static_cast<std::byte*>(request.iov[i].iov_base);
    std::size_t left = std::min(request.iov[i].iov_len, length - done);
    while (left != 0) {
      const auto piece = extents.at(request.offset + done, left);
      const auto here = static_cast<std::size_t>(piece.length);
      copy_piece(direct, request.write, at, piece, here);
      at += here;
      done += here;
      left -= here;
    }
  }
}

// Whether copy_all() may be called.
Done is_known(const Extents& extents, const Request& request, std::size_t length, bool complete) {
  if (request.offset + length > extents.end) return Done::unknown;
  for (std::size_t at = 0; at < length;) {
    const auto piece = extents.at(request.offset + at, length - at);
    if (piece.zeroes && (request.write || !complete)) return Done::unknown;
    at += static_cast<std::size_t>(piece.length);
  }
  return Done::all;
}

// One try; `transferred` with Done::all.
Done copy_once(daxfs_direct& direct, Lane& lane, const Request& request, std::size_t* transferred) {
  daxfs::doorbell::Page& page = *direct.attached.page;
  const std::atomic<bool>& lost = direct.attached.pool->lost;
  const std::uint64_t epoch = direct.epoch.load(std::memory_order_acquire);
  // Nothing is stored there before the daemon has given an epoch: so it is our doorbell.
  if (!daxfs::doorbell::is_open(epoch)) return Done::closed;
  Slot* const slot = slot_of(direct, lane);
  if (slot == nullptr) return Done::never;
  const daxfs::doorbell::Copy copy(page, *slot, epoch, counting_in(direct, lane));
  // In this order: what is counted in memory that is nobody's counts for nobody.
  if (lost.load(std::memory_order_acquire)) return Done::never;
  if (!copy) return Done::closed;
  const Extents* const extents = direct.extents.load(std::memory_order_seq_cst);
  if (extents == nullptr || extents->epoch != epoch) return Done::closed;
  // In this order, the other way round than the daemon stores them: a size that has grown brings
  // the additions with it, and what was added is no hole.
  const std::uint64_t size = page.size.load(std::memory_order_acquire);
  const bool complete = page.additions.load(std::memory_order_acquire) == extents->additions;
  std::size_t length = request.length;
  if (request.write) {
    if (request.offset > size || length > size - request.offset) return Done::unknown;
  } else {
    length = request.offset >= size
                 ? 0
                 : static_cast<std::size_t>(std::min<std::uint64_t>(length, size - request.offset));
  }
  if (request.count == 1 && request.offset + length <= extents->end) {
    const auto piece = extents->at(request.offset, length);
    if (piece.length == length && !piece.zeroes) {
      copy_piece(direct, request.write, static_cast<std::byte*>(request.iov->iov_base), piece,
                 length);
      *transferred = length;
    }
  }
  if (*transferred == 0) {
    const Done known = is_known(*extents, request, length, complete);
    if (known != Done::all) return known;
    copy_all(direct, *extents, request, length);
    *transferred = length;
  }
  if (lost.load(std::memory_order_acquire)) return Done::never;
  if (request.write) {
    const auto when = static_cast<std::uint64_t>(now_ns(CLOCK_REALTIME_COARSE));
    if (page.written.load(std::memory_order_relaxed) != when)
      page.written.store(when, std::memory_order_release);
  }
  return Done::all;
}

ssize_t transfer_directly(daxfs_direct& direct, Lane& lane, const Request& request) {
  if (direct.attached.pool->lost.load(std::memory_order_acquire)) return kUnable;
  const Guarded guarded(direct.attached.guard);
  for (int tries = 0; tries < 2; ++tries) {
    std::size_t transferred = 0;
    const std::uint64_t before = direct.epoch.load(std::memory_order_relaxed);
    const Done done = copy_once(direct, lane, request, &transferred);
    const std::uint64_t seen = direct.attached.page->epoch.load(std::memory_order_seq_cst);
    switch (done) {
      case Done::all:
        // The kernel's page cache may have taken in what was there before: it is dropped when this
        // is asked.
        if (request.write && seen != before && seen != daxfs::doorbell::kClosedForGood)
          refresh(direct, Refresh::always);
        return static_cast<ssize_t>(transferred);
      case Done::never:
        return kUnable;
      case Done::closed:
        if (!may_ask(direct, seen) || !refresh(direct, Refresh::if_stale)) return kClosed;
        break;
      case Done::unknown:
        // An end that is written to grows by system call; asking would tell nothing.
        if (request.write && request.offset + request.length >
                                 direct.attached.page->size.load(std::memory_order_relaxed))
          return kUnknown;
        if (direct.holes.fetch_add(1, std::memory_order_relaxed) % kAskAboutHoles != 0 ||
            !refresh(direct, Refresh::always))
          return kUnknown;
        break;
    }
  }
  return kClosed;
}

// What the call returns; or why not.
ssize_t transfer(daxfs_direct& direct, const Request& request) {
  const bool able = request.write ? direct.writable : direct.readable;
  if (daxfs::client::is_forked_since(direct.generation)) return kForked;
  if (!able || request.length == 0) return kUnable;
  Lane& lane = direct.lanes[daxfs::client::thread_lane()];
  const ssize_t done = transfer_directly(direct, lane, request);
  count(is_done(done) ? lane.direct : lane.by_kernel);
  return done;
}

// False: the system call says what is wrong.
bool add_up(const iovec* iov, int count, std::uint64_t offset, std::size_t* length) {
  *length = 0;
  if (count < 0 || count > IOV_MAX || offset > INT64_MAX) return false;
  for (int i = 0; i < count; ++i) {
    if (iov[i].iov_len > static_cast<std::size_t>(SSIZE_MAX) - *length) return false;
    *length += iov[i].iov_len;
  }
  constexpr std::size_t kMostAtOnce = 0x7ffff000;  // the kernel's own limit
  return *length <= kMostAtOnce && *length <= INT64_MAX - offset;
}

}  // namespace

namespace daxfs::client {

int open_past_cache(int fd, int flags) {
  char path[sizeof "/proc/self/fd/" + 3 * sizeof(int)];
  static_cast<void>(std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd));
  constexpr int kKept = O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC | O_NOATIME;
  return open(path, (flags & kKept) | O_DIRECT | O_CLOEXEC);
}

daxfs_direct* attach_opened(int own, int flags) {
  const std::uint64_t generation = daxfs::client::fork_generation();
  if (generation == 0) return nullptr;
  void* room = nullptr;
  if (posix_memalign(&room, alignof(daxfs_direct), sizeof(daxfs_direct)) != 0) {
    errno = ENOMEM;
    return nullptr;
  }
  std::memset(room, 0, sizeof(daxfs_direct));
  auto* const direct = static_cast<daxfs_direct*>(room);
  direct->fd = own;
  if (!attach_and_map(own, &direct->attached)) {
    const KeepErrno keep;
    std::free(direct);
    return nullptr;
  }
  const int mode = flags & O_ACCMODE;
  direct->readable = mode != O_WRONLY;
  direct->writable = mode != O_RDONLY && (flags & O_APPEND) == 0;
  direct->generation = generation;
  direct->epoch.store(kNoEpoch, std::memory_order_relaxed);
  direct->refused.store(kNoEpoch, std::memory_order_relaxed);
  // What stands in the page may be anybody's word until the daemon has given an epoch; but this
  // is the daemon's own if the page is.
  direct->barriers =
      asks_for_barriers() && (direct->attached.page->flags.load(std::memory_order_relaxed) &
                              daxfs::doorbell::kMakesBarriers) != 0;
  pthread_mutex_init(&direct->refreshing, nullptr);
  return direct;
}

int own_descriptor(const daxfs_direct& direct) { return direct.fd; }

ssize_t try_transfer(daxfs_direct& direct, bool write, const iovec* iov, int count,
                     std::uint64_t offset) {
  Request request = {write, iov, count, offset, 0};
  return add_up(iov, count, offset, &request.length) ? transfer(direct, request) : kUnable;
}

bool is_open_for_copies(const daxfs_direct& direct) {
  if (is_forked_since(direct.generation)) return false;
  const Guarded guarded(direct.attached.guard);
  return is_fresh(direct) && !direct.attached.pool->lost.load(std::memory_order_acquire);
}

}  // namespace daxfs::client

daxfs_direct* daxfs_attach(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return nullptr;
  const int own = daxfs::client::open_past_cache(fd, flags);
  if (own < 0) return nullptr;
  daxfs_direct* const direct = daxfs::client::attach_opened(own, flags);
  if (direct == nullptr) {
    const daxfs::client::KeepErrno keep;
    close(own);
  }
  return direct;
}

int daxfs_detach(daxfs_direct* direct) {
  const bool mine = !daxfs::client::is_forked_since(direct->generation);
  if (mine) {
    const Guarded guarded(direct->attached.guard);
    for (Lane& lane : direct->lanes) {
      Slot* const slot = lane.slot.load(std::memory_order_relaxed);
      if (slot != nullptr) daxfs::doorbell::release(*slot, attachment_of(*direct));
    }
    daxfs::client::unmap_and_detach(direct->fd, &direct->attached);
  }
  free_retired(*direct);
  std::free(direct->extents.load(std::memory_order_relaxed));
  close(direct->fd);
  pthread_mutex_destroy(&direct->refreshing);
  std::free(direct);
  return 0;
}

ssize_t daxfs_preadv(daxfs_direct* direct, const iovec* iov, int count, std::uint64_t offset) {
  const ssize_t done = daxfs::client::try_transfer(*direct, false, iov, count, offset);
  if (is_done(done)) return done;
  return preadv(direct->fd, iov, count, static_cast<off_t>(offset));
}

ssize_t daxfs_pwritev(daxfs_direct* direct, const iovec* iov, int count, std::uint64_t offset) {
  const ssize_t done = daxfs::client::try_transfer(*direct, true, iov, count, offset);
  if (is_done(done)) return done;
  return pwritev(direct->fd, iov, count, static_cast<off_t>(offset));
}

ssize_t daxfs_pread(daxfs_direct* direct, void* buffer, std::size_t length, std::uint64_t offset) {
  const iovec one = {buffer, length};
  return daxfs_preadv(direct, &one, 1, offset);
}

ssize_t daxfs_pwrite(daxfs_direct* direct, const void* buffer, std::size_t length,
                     std::uint64_t offset) {
  const iovec one = {const_cast<void*>(buffer), length};
  return daxfs_pwritev(direct, &one, 1, offset);
}

int daxfs_direct_counts(const daxfs_direct* direct, daxfs_counts* out) {
  *out = {};
  for (const Lane& lane : direct->lanes) {
    out->direct += lane.direct.load(std::memory_order_relaxed);
    out->by_kernel += lane.by_kernel.load(std::memory_order_relaxed);
  }
  return 0;
}
