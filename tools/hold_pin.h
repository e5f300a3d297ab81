// A pin and the mapping of what it pins, taken together and given back together.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "blockmap/result.h"
#include "blockmap/units.h"
#include "tools/hold_options.h"

namespace daxfs::hold {

// Where a piece of the pinned range lies.
struct Piece {
  FileOffset file;
  PoolOffset pool;
  ByteCount length;
  std::byte* address = nullptr;
};

// Not thread-safe.
class PinnedRange {
 public:
  // Pins and maps `range` of the file (whole blocks around it). While it has to queue behind a
  // waiting detach, SIGINT and SIGTERM end the process as if it never had blocked them: nothing is
  // held yet.
  static Outcome<PinnedRange> take(int file, const ByteRange& range, const Options& options);

  PinnedRange(PinnedRange&& other) noexcept;
  PinnedRange& operator=(PinnedRange&&) = delete;
  ~PinnedRange();

  std::uint64_t id() const { return pin_; }
  std::size_t extents() const { return pieces_.size(); }

  // The mapped bytes. The range must not cross a block boundary.
  std::span<std::byte> bytes(FileOffset at, std::size_t size) const;
  PoolOffset pool_offset(FileOffset at) const;

  // Whether the file still shows the pinned block at this place (a deferred detach changes that).
  // True also if the daemon does not answer.
  bool attached(FileBlock block) const;

  // Unmaps and unpins. That the daemon is gone (and the pin with it) is no error.
  Outcome<void> release();

 private:
  PinnedRange(int file, std::uint64_t pin) : file_(file), pin_(pin) {}
  Outcome<void> map(const std::string& path);
  Outcome<void> map_pieces(const std::string& path);
  const Piece& piece_of(FileOffset at) const;
  int unmap();

  int file_;
  std::uint64_t pin_;
  bool pinned_ = true;
  std::vector<Piece> pieces_;  // in file order, without gaps
  void* view_ = nullptr;       // either one view ...
  std::size_t view_length_ = 0;
  std::vector<iovec> parts_;  // ... or one address per extent
};

// Whether the daemon behind this descriptor has died (or its mount has been aborted). Cheap.
bool daemon_gone(int file);

}  // namespace daxfs::hold
