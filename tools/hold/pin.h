// Pins side by side and the mapping of what they pin, taken together and given back together, or
// one after the other to those who ask.
#pragma once

#include <sys/uio.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "tools/hold/options.h"

namespace daxfs::hold {

// Where a piece of the pinned range lies.
struct Piece {
  FileOffset file;
  PoolOffset pool;
  ByteCount length;
  std::byte* address = nullptr;
  FileOffset end() const { return file + length; }
};

// Not thread-safe.
class PinnedRange {
 public:
  // Pins and maps `range` of the file (whole blocks around it) with options.pins pins. Nothing if a
  // waiting detach got in between: then nothing is held, and the caller may try again. `queue`:
  // waits behind such a detach first; meanwhile SIGINT and SIGTERM end the process as if it never
  // had blocked them.
  static Outcome<std::optional<PinnedRange>> take(int file, const ByteRange& range,
                                                  const Options& options, bool queue);

  PinnedRange(PinnedRange&& other) noexcept;
  PinnedRange& operator=(PinnedRange&&) = delete;
  ~PinnedRange();

  std::uint64_t first_id() const { return pins_.front(); }
  std::size_t extents() const { return pieces_.size(); }
  FileRange blocks() const { return blocks_; }

  // What has not been given up.
  std::uint64_t left() const { return left_; }
  bool holds(FileBlock block) const { return pins_[index_of(block)] != 0; }
  std::vector<FileRange> held() const;
  // The mapped memory of all that is held, in pieces without gaps.
  std::vector<std::span<std::byte>> memory() const;

  // The mapped bytes. The range must be held and not cross a block boundary.
  std::span<std::byte> bytes(FileOffset at, std::size_t size) const;
  PoolOffset pool_offset(FileOffset at) const;

  // Whether the file still shows the pinned block at this place (a deferred detach changes that).
  // True also if the daemon does not answer.
  bool attached(FileBlock block) const;

  // The blocks of all pins that overlap `range`.
  FileRange whole_pins(FileRange range) const;
  // Unmaps and unpins whole pins; returns how many.
  Outcome<std::uint64_t> give_up(FileRange whole_pins);
  // Unmaps and unpins all. That the daemon is gone (and the pins with it) is no error.
  Outcome<void> release();

  // After a crash of the daemon: takes the pins over on a descriptor of the next mount; returns how
  // many it knew. ENOTCONN: that daemon has gone, too.
  Result<std::uint64_t> adopt(int file);

 private:
  PinnedRange(int file, FileRange blocks, BlockCount blocks_per_pin)
      : file_(file), blocks_(blocks), blocks_per_pin_(blocks_per_pin) {}
  std::size_t index_of(FileBlock block) const {
    return static_cast<std::size_t>((block - blocks_.start).value / blocks_per_pin_.value);
  }
  Outcome<void> map(std::uint64_t pin, const std::string& path);
  Outcome<void> map_pieces(std::uint64_t pin, const std::string& path);
  bool shown_by_file() const;
  const Piece& piece_of(FileOffset at) const;
  Outcome<void> unpin(std::uint64_t& pin);
  void let_go(FileRange blocks);
  int unmap();

  int file_;
  FileRange blocks_;
  BlockCount blocks_per_pin_;
  std::vector<std::uint64_t> pins_;  // in file order; 0: given up
  std::uint64_t left_ = 0;
  bool some_unknown_ = false;  // to the daemon, since it adopted not all of them
  std::vector<Piece> pieces_;  // in file order, without gaps
  void* view_ = nullptr;       // either one view ...
  std::size_t view_length_ = 0;
  std::vector<iovec> parts_;  // ... or one address per extent
};

// Whether the daemon behind this descriptor has died (or its mount has been aborted). Cheap.
bool daemon_gone(int file);

// While it exists, blocked SIGINT and SIGTERM have their default effect again.
class Interruptible {
 public:
  Interruptible();
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  sigset_t before_;
};

}  // namespace daxfs::hold
