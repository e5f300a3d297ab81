// What daxfs-hold was asked to do.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/units.h"

namespace daxfs::hold {

// Who works in the memory.
enum class EngineKind : std::uint8_t { mmap, io_uring, rdma };

struct Options {
  std::string path;
  FileOffset offset;
  std::optional<ByteCount> length;  // of each pin; none: to the end of the file
  std::uint64_t pins = 1;           // side by side; more than one: of whole blocks
  bool short_term = false;
  bool lease = false;
  bool exclusive = false;  // the lease
  bool ignore_breaks = false;
  EngineKind engine = EngineKind::mmap;
  bool read_only = false;
  bool allocate = false;
  bool verify = false;
  bool json = false;
  std::optional<std::chrono::duration<double>> seconds;  // for all rounds together
  std::uint64_t rounds = 1;
  std::chrono::milliseconds interval{10};
};

// The bytes of the file that the pattern covers: exactly what was asked for. The pin covers whole
// blocks around them, but the rest of those belongs to the file's other users.
struct ByteRange {
  FileOffset begin;
  ByteCount length;
  FileOffset end() const { return begin + length; }
};

}  // namespace daxfs::hold
