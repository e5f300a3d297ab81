// The work of a holder while it holds: writing the pattern, generation after generation, and
// checking it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "base/units.h"
#include "tools/hold/engine.h"
#include "tools/hold/options.h"
#include "tools/hold/pattern.h"
#include "tools/hold/pin.h"
#include "tools/hold/report.h"

namespace daxfs::hold {

// Visits 0 .. n-1 once each, in an order that differs from time to time, without a table of n
// entries.
class Shuffle {
 public:
  Shuffle(std::uint64_t n, std::mt19937_64& random);
  std::uint64_t at_start() const { return start_; }
  std::uint64_t after(std::uint64_t current) const { return (current + stride_) % n_; }

 private:
  std::uint64_t n_;
  std::uint64_t start_;
  std::uint64_t stride_;  // coprime to n
};

// From taking possession of a pinned range to the last look at it. What is not held any more is
// left alone. Not thread-safe.
class Worker {
 public:
  // `engine` may be null: then the processor alone works in the memory.
  Worker(int file, const PinnedRange& pinned, const ByteRange& range, const Options& options,
         const Pattern& pattern, Engine* engine, Report& report, Totals& totals);

  // The first generation is written (a read-only holder: the snapshot is taken).
  Outcome<void> begin();
  // Writes and checks some blocks. True if each has been checked since begin() at least once.
  Outcome<bool> step();
  // These blocks are checked a last time, as long as they are held.
  void leave(FileRange blocks);
  // All are.
  void finish() { leave(blocks_); }

  // --verify reads the file through a descriptor of its own, while there is a daemon.
  Outcome<void> open_reader();
  void close_reader() { reader_ = UniqueFd(); }

 private:
  struct Span {
    FileOffset at;
    std::size_t size;
  };
  Span span_of(std::uint64_t index) const;
  Generation written(std::uint64_t index) const;
  Outcome<void> visit(std::span<const std::uint64_t> indices);
  void check(std::uint64_t index, Generation generation, std::span<const std::byte> bytes,
             std::string_view seen_in);
  void check_mapping(std::uint64_t index, Generation generation);
  void check_file(std::uint64_t index, Generation generation);
  void found(const Foreign& foreign, std::string_view seen_in);
  std::optional<Foreign> compare_with_expected(const Span& span, std::span<const std::byte> bytes,
                                               Generation generation) const;
  void start_sweep();

  const int file_;
  const PinnedRange& pinned_;
  const ByteRange range_;
  const FileRange blocks_;
  const Options& options_;
  const Pattern& pattern_;
  Engine* const engine_;
  Report& report_;
  Totals& totals_;

  std::mt19937_64 random_;
  UniqueFd reader_;                  // --verify: opened while the pin is held, hence never stale
  std::vector<bool> detached_;       // --verify: blocks that the file no longer shows
  std::vector<std::byte> snapshot_;  // read-only holder: what must not change

  // The sweep in progress writes generation_; the blocks that it has not visited yet hold the one
  // before.
  Generation generation_{1};
  std::vector<bool> visited_;  // by the sweep in progress
  Shuffle order_;
  std::uint64_t done_ = 0;
  std::uint64_t next_ = 0;
  bool swept_ = false;
};

}  // namespace daxfs::hold
