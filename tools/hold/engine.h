// Who works in the held memory beside the processor: a device that was given it once, and keeps
// using it without asking.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tools/hold/options.h"

namespace daxfs::hold {

// Not thread-safe.
class Engine {
 public:
  // Null for EngineKind::mmap, which needs none. `path` is for messages.
  static Outcome<std::unique_ptr<Engine>> make(EngineKind kind, const std::string& path);
  virtual ~Engine() = default;

  // Gives the memory to the device; forget() takes all of it back.
  virtual Outcome<void> remember(const std::vector<std::span<std::byte>>& memory) = 0;
  virtual void forget() = 0;

  // At most so many pieces of at most a block, each within the memory, in one transfer.
  static constexpr std::size_t kMostPieces = 32;
  // The device copies the pieces to its own side, or from there. The n-th piece's bytes are at
  // there(n).
  virtual Outcome<void> copy_out(std::span<const std::span<std::byte>> pieces) = 0;
  virtual Outcome<void> copy_in(std::span<const std::span<std::byte>> pieces) = 0;
  virtual std::byte* there(std::size_t piece) = 0;
};

}  // namespace daxfs::hold
