#include "tools/hold/pin.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "base/pieces.h"
#include "client/daxfs.h"
#include "tools/hold/explain.h"

namespace daxfs::hold {
namespace {

std::uint32_t flags_of(const Options& options) {
  std::uint32_t flags = 0;
  if (options.short_term) flags |= DAXFS_PIN_SHORT;
  if (!options.read_only) flags |= DAXFS_PIN_WRITE;
  return flags;
}

bool gone(int code) { return code == ENOTCONN || code == ECONNABORTED; }

}  // namespace

Interruptible::Interruptible() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_UNBLOCK, &signals, &before_);
}

Interruptible::~Interruptible() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

// Of several pins, a short-term pin over all of them is the first: its one mapping serves for all,
// and costs no system calls for each. Whether the pins are of the same blocks is asked afterwards:
// what the file shows then was its own all the time, because a detached block never comes back.
Outcome<std::optional<PinnedRange>> PinnedRange::take(int file, const ByteRange& range,
                                                      const Options& options, bool queue) {
  const FileRange blocks = covering(range.begin, range.length);
  PinnedRange pinned(file, blocks, BlockCount(blocks.count.value / options.pins));
  const bool several = options.pins > 1;
  const std::uint32_t flags = flags_of(options);
  const std::uint32_t first_flags =
      flags | (several ? DAXFS_PIN_SHORT : 0u) | (options.allocate ? DAXFS_PIN_ALLOCATE : 0u);
  std::uint64_t first = 0;
  const auto pin_first = [&](std::uint32_t more) {
    return daxfs_pin(file, range.begin.value, range.length.value, first_flags | more, &first);
  };
  int result = pin_first(DAXFS_PIN_NOWAIT);
  if (result < 0 && errno == EAGAIN) {
    if (!queue) return std::nullopt;
    const Interruptible while_queued;
    result = pin_first(0);
  }
  if (result < 0) return std::unexpected(explain_pin(errno, file, range, options));
  pinned.pins_.push_back(first);
  pinned.left_ = 1;
  if (auto mapped = pinned.map(first, options.path); !mapped) {
    return std::unexpected(mapped.error());
  }
  if (pinned.pieces_.front().file > range.begin || pinned.pieces_.back().end() < range.end()) {
    return problem(EIO, options.path + ": the daemon pinned less than was asked for");
  }
  if (!several) return pinned;

  pinned.pins_.reserve(options.pins + 1);
  const ByteCount each = daxfs::bytes(pinned.blocks_per_pin_);
  for (std::uint64_t i = 0; i < options.pins; ++i) {
    const ByteRange part = {range.begin + ByteCount(i * each.value), each};
    std::uint64_t pin = 0;
    if (daxfs_pin(file, part.begin.value, each.value, flags | DAXFS_PIN_NOWAIT, &pin) < 0) {
      if (errno == EAGAIN) return std::nullopt;
      return std::unexpected(explain_pin(errno, file, part, options));
    }
    pinned.pins_.push_back(pin);
  }
  if (!pinned.shown_by_file()) return std::nullopt;
  if (auto unpinned = pinned.unpin(pinned.pins_.front()); !unpinned) {
    return std::unexpected(unpinned.error());
  }
  pinned.pins_.erase(pinned.pins_.begin());
  pinned.left_ = options.pins;
  return pinned;
}

PinnedRange::PinnedRange(PinnedRange&& other) noexcept
    : file_(other.file_),
      blocks_(other.blocks_),
      blocks_per_pin_(other.blocks_per_pin_),
      pins_(std::exchange(other.pins_, {})),
      left_(std::exchange(other.left_, 0)),
      some_unknown_(other.some_unknown_),
      pieces_(std::move(other.pieces_)),
      view_(std::exchange(other.view_, nullptr)),
      view_length_(other.view_length_),
      parts_(std::exchange(other.parts_, {})) {}

PinnedRange::~PinnedRange() {
  unmap();
  for (const std::uint64_t pin : pins_) {
    if (pin != 0) daxfs_unpin(file_, pin);
  }
}

Outcome<void> PinnedRange::map(std::uint64_t pin, const std::string& path) {
  const ssize_t count = daxfs_pin_extents(file_, pin, nullptr, 0);
  std::vector<daxfs_extent> extents(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (count < 0 || daxfs_pin_extents(file_, pin, extents.data(), extents.size()) != count) {
    return std::unexpected(explain_map(errno, file_, path));
  }
  pieces_.reserve(extents.size());
  for (const daxfs_extent& extent : extents) {
    if (!pieces_.empty() && FileOffset(extent.file_offset) != pieces_.back().end()) {
      return problem(EIO, path + ": the daemon's list of pinned extents has gaps");
    }
    pieces_.push_back({FileOffset(extent.file_offset), PoolOffset(extent.pool_offset),
                       ByteCount(extent.length), nullptr});
  }
  if (pieces_.empty()) return problem(EIO, path + ": the daemon's list of pinned extents is empty");

  view_ = daxfs_map(file_, pin, &view_length_);
  if (view_ == nullptr && errno == EOPNOTSUPP) return map_pieces(pin, path);
  if (view_ == nullptr) return std::unexpected(explain_map(errno, file_, path));
  for (Piece& piece : pieces_) {
    piece.address = static_cast<std::byte*>(view_) + (piece.file - pieces_.front().file).value;
  }
  return {};
}

Outcome<void> PinnedRange::map_pieces(std::uint64_t pin, const std::string& path) {
  std::vector<iovec> parts(pieces_.size());
  const ssize_t count = daxfs_map_iov(file_, pin, parts.data(), parts.size());
  if (count < 0) return std::unexpected(explain_map(errno, file_, path));
  parts_ = std::move(parts);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    pieces_[i].address = static_cast<std::byte*>(parts_[i].iov_base);
  }
  return {};
}

bool PinnedRange::shown_by_file() const {
  const std::uint64_t start = offset_of(blocks_.start).value;
  const std::uint64_t length = daxfs::bytes(blocks_.count).value;
  const ssize_t count = daxfs_extents(file_, start, length, nullptr, 0);
  std::vector<daxfs_extent> extents(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (count <= 0 || daxfs_extents(file_, start, length, extents.data(), extents.size()) != count) {
    return false;
  }
  FileOffset at(start);
  for (const daxfs_extent& extent : extents) {
    const FileOffset end(extent.file_offset + extent.length);
    // Both lists may cut the same run of blocks at other places.
    for (FileOffset next; at < end; at = next) {
      const Piece& piece = piece_of(at);
      next = std::min(end, piece.end());
      if (extent.file_offset > at.value ||
          pool_offset(at).value != extent.pool_offset + (at.value - extent.file_offset)) {
        return false;
      }
    }
  }
  return at.value >= start + length;
}

std::vector<FileRange> PinnedRange::held() const {
  std::vector<FileRange> runs;
  for (std::size_t i = 0; i < pins_.size(); ++i) {
    if (pins_[i] == 0) continue;
    const FileBlock start = blocks_.start + BlockCount(i * blocks_per_pin_.value);
    if (runs.empty() || runs.back().end() != start) runs.push_back({start, BlockCount(0)});
    runs.back().count += blocks_per_pin_;
  }
  return runs;
}

std::vector<std::span<std::byte>> PinnedRange::memory() const {
  std::vector<std::span<std::byte>> result;
  for (const FileRange& run : held()) {
    for (FileOffset at = offset_of(run.start); at < offset_of(run.end());) {
      const Piece& piece = piece_of(at);
      const FileOffset end = std::min(piece.end(), offset_of(run.end()));
      const std::span<std::byte> here = bytes(at, static_cast<std::size_t>((end - at).value));
      if (!result.empty() && result.back().data() + result.back().size() == here.data()) {
        result.back() = {result.back().data(), result.back().size() + here.size()};
      } else {
        result.push_back(here);
      }
      at = end;
    }
  }
  return result;
}

const Piece& PinnedRange::piece_of(FileOffset at) const {
  return *last_begun(pieces_, at, &Piece::file);
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

FileRange PinnedRange::whole_pins(FileRange range) const {
  const FileBlock start = std::max(range.start, blocks_.start);
  const FileBlock end = std::min(range.end(), blocks_.end());
  if (start >= end) return {start, BlockCount(0)};
  const std::uint64_t each = blocks_per_pin_.value;
  const std::uint64_t first = (start - blocks_.start).value / each;
  const std::uint64_t last = ((end - blocks_.start).value - 1) / each;
  return {blocks_.start + BlockCount(first * each), BlockCount((last - first + 1) * each)};
}

// Its addresses stay reserved, so that nobody's memory comes to lie where the rest of the view will
// be unmapped at the end. A device's mapping cannot be split anywhere; it stays, unused.
void PinnedRange::let_go(FileRange range) {
  if (view_ == nullptr) return;
  const std::size_t begin =
      static_cast<std::size_t>((offset_of(range.start) - pieces_.front().file).value);
  const std::size_t length = static_cast<std::size_t>(daxfs::bytes(range.count).value);
  // If there is no room for one more mapping, it stays as well.
  (void)mmap(static_cast<std::byte*>(view_) + begin, length, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

Outcome<std::uint64_t> PinnedRange::give_up(FileRange range) {
  let_go(range);
  std::uint64_t count = 0;
  for (FileBlock at = range.start; at < range.end(); at += blocks_per_pin_) {
    std::uint64_t& pin = pins_[index_of(at)];
    if (pin == 0) continue;
    if (auto unpinned = unpin(pin); !unpinned) return std::unexpected(unpinned.error());
    --left_;
    ++count;
  }
  return count;
}

Outcome<void> PinnedRange::unpin(std::uint64_t& pin) {
  const std::uint64_t id = std::exchange(pin, 0);
  if (daxfs_unpin(file_, id) == 0) return {};
  const int code = errno;
  if ((code == ENOENT && some_unknown_) || daemon_gone(file_)) return {};
  return std::unexpected(explain_release(code));
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
  left_ = 0;
  for (std::uint64_t& pin : pins_) {
    if (pin == 0) continue;
    if (auto unpinned = unpin(pin); !unpinned) return unpinned;
  }
  return {};
}

Result<std::uint64_t> PinnedRange::adopt(int file) {
  std::uint64_t count = 0;
  for (const std::uint64_t pin : pins_) {
    if (pin == 0) continue;
    if (daxfs_adopt(file, pin) == 0) {
      ++count;
    } else if (gone(errno)) {
      return fail(ENOTCONN);
    }
  }
  some_unknown_ = count < left_;
  return count;
}

bool daemon_gone(int file) {
  daxfs_pool_args pool;
  if (ioctl(file, DAXFS_IOC_POOL, &pool) == 0) return false;
  // ENOTTY: a descriptor that was given up (File::forsake()).
  return gone(errno) || errno == ENOTTY;
}

}  // namespace daxfs::hold
