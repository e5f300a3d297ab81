#include "tools/run/transfer.h"

#include <errno.h>
#include <time.h>

#include <cstdint>

#include "client/pool_file.h"
#include "tools/run/raw.h"

namespace daxfs::run {
namespace {

constexpr int kMostPieces = 1024;                // as IOV_MAX
constexpr std::size_t kMostAtOnce = 0x7ffff000;  // the kernel's own limit

// The kernel answers EFAULT to what is none of the program's memory.
bool can_be_memory(const iovec& piece) {
  constexpr std::uintptr_t kFirstPage = 4096;
  constexpr std::uintptr_t kEnd = std::uintptr_t{1} << 47;
  const auto at = reinterpret_cast<std::uintptr_t>(piece.iov_base);
  return piece.iov_len == 0 || (at >= kFirstPage && at < kEnd && piece.iov_len <= kEnd - at);
}

// 0: it is the kernel's.
std::size_t length_of(const Transfer& transfer) {
  if (transfer.count <= 0 || transfer.count > kMostPieces) return 0;
  std::size_t length = 0;
  for (int i = 0; i < transfer.count; ++i) {
    const iovec& piece = transfer.iov[i];
    if (!can_be_memory(piece) || piece.iov_len > kMostAtOnce - length) return 0;
    length += piece.iov_len;
  }
  return length;
}

Way way_of(ssize_t why) {
  switch (why) {
    case client::kClosed:
      return Way::closed;
    case client::kUnknown:
      return Way::grows;
    case client::kForked:
      return Way::forked;
    default:
      return Way::unusual;
  }
}

bool is_possible(const Use& use, const Transfer& transfer, std::size_t length) {
  return length != 0 && use->direct != nullptr &&
         !(transfer.write && use->appends.load(std::memory_order_relaxed));
}

std::int64_t now_ms() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

// Where somebody uses the page cache all the time (a mapping), the library's descriptor, which goes
// past it, is the slowest way of all, and the program's own is better. But that one uses the page
// cache, too: so the other is tried for a while again, or copies would never begin again.
constexpr std::int64_t kCloseMs = 250;  // more than the daemon keeps a file closed (0.1 s)
constexpr std::int64_t kLeaveMs = 2000;

void note_closed(const Use& use) {
  const std::int64_t now = now_ms();
  const std::int64_t since = use->closed_since.load(std::memory_order_relaxed);
  if (since == 0) {
    use->closed_since.store(now, std::memory_order_relaxed);
  } else if (now - since >= kCloseMs) {
    use->closed_since.store(0, std::memory_order_relaxed);
    use->left_until.store(now + kLeaveMs, std::memory_order_relaxed);
  }
}

bool is_better_left(const Use& use, bool write) {
  const std::int64_t until = use->left_until.load(std::memory_order_relaxed);
  if (until == 0) [[likely]]
    return false;
  if (now_ms() >= until) {
    use->left_until.store(0, std::memory_order_relaxed);
    return false;
  }
  note(write, Way::closed);
  return true;
}

ssize_t move(const Use& use, const Transfer& transfer, off_t offset) {
  const int before = errno;
  const ssize_t done = client::try_transfer(*use->direct, transfer.write, transfer.iov,
                                            transfer.count, static_cast<std::uint64_t>(offset));
  errno = before;  // what succeeds leaves it alone
  if (done >= 0) {
    note(transfer.write, Way::copied);
    if (use->closed_since.load(std::memory_order_relaxed) != 0) [[unlikely]]
      use->closed_since.store(0, std::memory_order_relaxed);
    return done;
  }
  note(transfer.write, way_of(done));
  if (done == client::kClosed) note_closed(use);
  if (done == client::kForked) use->by_parent.fetch_add(1, std::memory_order_relaxed);
  return transfer.write ? raw::pwritev(use->own, transfer.iov, transfer.count, offset)
                        : raw::preadv(use->own, transfer.iov, transfer.count, offset);
}

}  // namespace

bool transfer_at(const Use& use, const Transfer& transfer, off_t offset, ssize_t* result) {
  if (is_better_left(use, transfer.write)) return false;
  if (offset < 0 || !is_possible(use, transfer, length_of(transfer))) {
    note(transfer.write, Way::unusual);
    return false;
  }
  *result = move(use, transfer, offset);
  return true;
}

bool transfer_here(const Use& use, int fd, const Transfer& transfer, ssize_t* result) {
  if (is_better_left(use, transfer.write)) return false;
  const std::size_t length = length_of(transfer);
  const auto step = static_cast<off_t>(length);
  // Moved on before the copy, as a whole: others who share the position, and a signal handler in
  // between, go on behind it.
  const off_t end = is_possible(use, transfer, length) ? raw::lseek(fd, step, SEEK_CUR) : -1;
  if (end < step) {
    note(transfer.write, Way::unusual);
    return false;
  }
  *result = move(use, transfer, end - step);
  if (*result != step) {
    const client::KeepErrno keep;
    raw::lseek(fd, (*result > 0 ? *result : 0) - step, SEEK_CUR);
  }
  return true;
}

}  // namespace daxfs::run
