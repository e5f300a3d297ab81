#include "tools/hold_pin.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "client/daxfs.h"
#include "tools/hold_explain.h"

namespace daxfs::hold {
namespace {

std::uint32_t flags_of(const Options& options) {
  std::uint32_t flags = 0;
  if (options.short_term) flags |= DAXFS_PIN_SHORT;
  if (!options.read_only) flags |= DAXFS_PIN_WRITE;
  if (options.allocate) flags |= DAXFS_PIN_ALLOCATE;
  return flags;
}

// While it exists, blocked SIGINT and SIGTERM have their default effect again.
class Interruptible {
 public:
  Interruptible() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &signals, &before_);
  }
  ~Interruptible() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

Outcome<PinnedRange> PinnedRange::take(int file, const ByteRange& range, const Options& options) {
  const std::uint32_t flags = flags_of(options);
  std::uint64_t pin = 0;
  int result =
      daxfs_pin(file, range.begin.value, range.length.value, flags | DAXFS_PIN_NOWAIT, &pin);
  if (result < 0 && errno == EAGAIN) {
    const Interruptible while_queued;
    result = daxfs_pin(file, range.begin.value, range.length.value, flags, &pin);
  }
  if (result < 0) return std::unexpected(explain_pin(errno, file, range, options));

  PinnedRange pinned(file, pin);
  if (auto mapped = pinned.map(options.path); !mapped) return std::unexpected(mapped.error());
  if (pinned.pieces_.front().file > range.begin ||
      pinned.pieces_.back().file + pinned.pieces_.back().length < range.end()) {
    return problem(EIO, options.path + ": the daemon pinned less than was asked for");
  }
  return pinned;
}

PinnedRange::PinnedRange(PinnedRange&& other) noexcept
    : file_(other.file_),
      pin_(other.pin_),
      pinned_(std::exchange(other.pinned_, false)),
      pieces_(std::move(other.pieces_)),
      view_(std::exchange(other.view_, nullptr)),
      view_length_(other.view_length_),
      parts_(std::exchange(other.parts_, {})) {}

PinnedRange::~PinnedRange() {
  unmap();
  if (pinned_) daxfs_unpin(file_, pin_);
}

Outcome<void> PinnedRange::map(const std::string& path) {
  const ssize_t count = daxfs_pin_extents(file_, pin_, nullptr, 0);
  std::vector<daxfs_extent> extents(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (count < 0 || daxfs_pin_extents(file_, pin_, extents.data(), extents.size()) != count) {
    return std::unexpected(explain_map(errno, file_, path));
  }
  pieces_.reserve(extents.size());
  for (const daxfs_extent& extent : extents) {
    if (!pieces_.empty() &&
        FileOffset(extent.file_offset) != pieces_.back().file + pieces_.back().length) {
      return problem(EIO, path + ": the daemon's list of pinned extents has gaps");
    }
    pieces_.push_back({FileOffset(extent.file_offset), PoolOffset(extent.pool_offset),
                       ByteCount(extent.length), nullptr});
  }
  if (pieces_.empty()) return problem(EIO, path + ": the daemon's list of pinned extents is empty");

  view_ = daxfs_map(file_, pin_, &view_length_);
  if (view_ == nullptr && errno == EOPNOTSUPP) return map_pieces(path);
  if (view_ == nullptr) return std::unexpected(explain_map(errno, file_, path));
  for (Piece& piece : pieces_) {
    piece.address = static_cast<std::byte*>(view_) + (piece.file - pieces_.front().file).value;
  }
  return {};
}

Outcome<void> PinnedRange::map_pieces(const std::string& path) {
  std::vector<iovec> parts(pieces_.size());
  const ssize_t count = daxfs_map_iov(file_, pin_, parts.data(), parts.size());
  if (count < 0) return std::unexpected(explain_map(errno, file_, path));
  parts_ = std::move(parts);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    pieces_[i].address = static_cast<std::byte*>(parts_[i].iov_base);
  }
  return {};
}

const Piece& PinnedRange::piece_of(FileOffset at) const {
  const auto after =
      std::upper_bound(pieces_.begin(), pieces_.end(), at,
                       [](FileOffset o, const Piece& piece) { return o < piece.file; });
  return *(after - 1);
}

std::span<std::byte> PinnedRange::bytes(FileOffset at, std::size_t size) const {
  const Piece& piece = piece_of(at);
  return {piece.address + (at - piece.file).value, size};
}

PoolOffset PinnedRange::pool_offset(FileOffset at) const {
  const Piece& piece = piece_of(at);
  return piece.pool + (at - piece.file);
}

bool PinnedRange::attached(FileBlock block) const {
  const FileOffset start = offset_of(block);
  daxfs_extent now = {};
  const ssize_t count = daxfs_extents(file_, start.value, kBlockSize, &now, 1);
  if (count < 0) return true;
  if (count == 0 || now.file_offset > start.value || now.file_offset + now.length <= start.value) {
    return false;
  }
  return PoolOffset(now.pool_offset + (start.value - now.file_offset)) == pool_offset(start);
}

int PinnedRange::unmap() {
  int result = 0;
  if (view_ != nullptr) result = daxfs_unmap(view_, view_length_);
  if (!parts_.empty()) result = daxfs_unmap_iov(file_, parts_.data(), parts_.size());
  view_ = nullptr;
  parts_.clear();
  return result;
}

Outcome<void> PinnedRange::release() {
  if (unmap() < 0) return std::unexpected(explain_release(errno));
  pinned_ = false;
  if (daxfs_unpin(file_, pin_) == 0) return {};
  const int code = errno;
  if (daemon_gone(file_)) return {};
  return std::unexpected(explain_release(code));
}

bool daemon_gone(int file) {
  daxfs_pool_args pool;
  return ioctl(file, DAXFS_IOC_POOL, &pool) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

}  // namespace daxfs::hold
