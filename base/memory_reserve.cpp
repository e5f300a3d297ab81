#include "base/memory_reserve.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <new>
#include <string_view>

namespace daxfs {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
constexpr std::size_t kPieces = 32;

std::array<std::atomic<void*>, kPieces> pieces;
std::atomic<bool> any_used = false;

bool give_back_one() {
  for (auto& slot : pieces) {
    void* const piece = slot.exchange(nullptr);
    if (piece != nullptr) return ::munmap(piece, kPieceBytes) == 0;
  }
  return false;
}

// The allocation that failed is tried again when this returns.
void on_exhaustion() {
  any_used.store(true, std::memory_order_release);
  if (give_back_one()) return;
  constexpr std::string_view kLast =
      "daxfs: out of memory, and the reserve is used up: the daemon ends. Nothing that was "
      "acknowledged is lost: unmount, give it more memory, mount again.\n";
  static_cast<void>(!::write(STDERR_FILENO, kLast.data(), kLast.size()));
  ::_exit(1);
}

}  // namespace

MemoryReserve::MemoryReserve() {
  for (auto& slot : pieces) {
    void* const piece =
        ::mmap(nullptr, kPieceBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (piece != MAP_FAILED) slot.store(piece);
  }
  std::set_new_handler(on_exhaustion);
}

MemoryReserve::~MemoryReserve() {
  std::set_new_handler(nullptr);
  while (give_back_one()) {
  }
}

bool MemoryReserve::used() { return any_used.load(std::memory_order_acquire); }

}  // namespace daxfs
