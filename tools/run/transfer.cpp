#include "tools/run/transfer.h"

#include <errno.h>

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

ssize_t move(const Use& use, const Transfer& transfer, off_t offset) {
  const ssize_t done = client::try_transfer(*use->direct, transfer.write, transfer.iov,
                                            transfer.count, static_cast<std::uint64_t>(offset));
  if (done >= 0) {
    note(transfer.write, Way::copied);
    return done;
  }
  note(transfer.write, way_of(done));
  if (done == client::kForked) use->by_parent.fetch_add(1, std::memory_order_relaxed);
  return transfer.write ? raw::pwritev(use->own, transfer.iov, transfer.count, offset)
                        : raw::preadv(use->own, transfer.iov, transfer.count, offset);
}

}  // namespace

bool transfer_at(const Use& use, const Transfer& transfer, off_t offset, ssize_t* result) {
  if (offset < 0 || !is_possible(use, transfer, length_of(transfer))) {
    note(transfer.write, Way::unusual);
    return false;
  }
  *result = move(use, transfer, offset);
  return true;
}

bool transfer_here(const Use& use, int fd, const Transfer& transfer, ssize_t* result) {
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
