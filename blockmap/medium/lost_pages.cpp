#include "blockmap/medium/lost_pages.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>

namespace daxfs {
namespace {

constexpr std::uint64_t kBitsPerWord = 64;

// A signal handler has no other way to what is watched. Slots are taken and left, never moved.
constexpr std::size_t kMostWatched = 64;
std::array<std::atomic<LostPages*>, kMostWatched> watched;
static_assert(std::atomic<LostPages*>::is_always_lock_free);

// The former handler of the signal: a sanitizer's report, or the default.
struct sigaction previous {};

// What a bit for each block takes.
std::size_t bitmap_bytes(ByteCount size) {
  return ((size.value >> kBlockShift) / kBitsPerWord + 1) * sizeof(std::atomic<std::uint64_t>);
}

}  // namespace

LostPages::LostPages(std::byte* base, ByteCount size, std::uint64_t unit,
                     std::atomic<std::uint64_t>* bits)
    : base_(base), size_(size), unit_(unit), bits_(bits) {}

Outcome<std::unique_ptr<LostPages>> LostPages::watch(std::byte* base, ByteCount size,
                                                     std::uint64_t unit) {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
  });
  const std::size_t bytes = bitmap_bytes(size);
  void* const bits = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bits == MAP_FAILED) {
    return problem(errno, fmt::format("cannot reserve {} bytes of address space: {}", bytes,
                                      std::strerror(errno)));
  }
  std::unique_ptr<LostPages> pages(
      new LostPages(base, size, unit, static_cast<std::atomic<std::uint64_t>*>(bits)));
  for (auto& slot : watched) {
    LostPages* nobody = nullptr;
    if (slot.compare_exchange_strong(nobody, pages.get())) return pages;
  }
  return problem(EMFILE, fmt::format("{} pools are mapped already", kMostWatched));
}

LostPages::~LostPages() {
  for (auto& slot : watched) {
    LostPages* self = this;
    if (slot.compare_exchange_strong(self, nullptr)) break;
  }
  ::munmap(bits_, bitmap_bytes(size_));
}

bool LostPages::any_in(PoolOffset start, ByteCount length) const {
  if (!any() || length.value == 0) return false;
  const std::uint64_t last = (start.value + length.value - 1) >> kBlockShift;
  for (std::uint64_t block = start.value >> kBlockShift; block <= last; ++block) {
    const std::uint64_t word = bits_[block / kBitsPerWord].load(std::memory_order_acquire);
    if ((word >> (block % kBitsPerWord) & 1) != 0) return true;
  }
  return false;
}

std::optional<LostPages::First> LostPages::first() const {
  const std::uint64_t first = first_.load(std::memory_order_acquire);
  if (first == kNone) return std::nullopt;
  return First{PoolOffset(first >> 1), (first & 1) != 0};
}

std::string LostPages::failure(int fd) const {
  const auto first = this->first();
  if (!first) return {};
  std::string where = fmt::format("there is no storage at byte {}", first->at.value);
  if (first->damaged) return fmt::format("memory is damaged at byte {}", first->at.value);
  struct stat st {};
  if (::fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
      static_cast<std::uint64_t>(st.st_size) <= first->at.value) {
    return fmt::format("{}: the file was cut to {} bytes under the mount", where, st.st_size);
  }
  struct statvfs space {};
  if (::fstatvfs(fd, &space) == 0 && space.f_bavail == 0) {
    return where + ": the file is sparse, and the filesystem that holds it is full";
  }
  return where;
}

bool LostPages::replace(const siginfo_t& info) {
  const auto address = reinterpret_cast<std::uintptr_t>(info.si_addr);
  const auto base = reinterpret_cast<std::uintptr_t>(base_);
  if (address < base || address - base >= size_.value) return false;
  const bool damaged = info.si_code == BUS_MCEERR_AR || info.si_code == BUS_MCEERR_AO;
  std::uint64_t unit = unit_;
  if (damaged && info.si_addr_lsb > 0 && info.si_addr_lsb < 40) {
    unit = std::max(unit, std::uint64_t{1} << info.si_addr_lsb);
  }
  const std::uint64_t begin = (address - base) & ~(unit - 1);
  const std::uint64_t length = std::min(unit, size_.value - begin);

  std::uint64_t none = kNone;
  first_.compare_exchange_strong(none, (address - base) << 1 | (damaged ? 1 : 0));
  for (std::uint64_t block = begin >> kBlockShift; block < (begin + length) >> kBlockShift;
       ++block) {
    bits_[block / kBitsPerWord].fetch_or(std::uint64_t{1} << (block % kBitsPerWord));
  }
  // First remembered, then readable: nobody takes the zeroes for what was stored.
  any_.store(true, std::memory_order_release);
  // The system call itself: mmap(3) is not on the list of what a signal handler may call.
  const long mapped = ::syscall(SYS_mmap, base_ + begin, length, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0L);
  return mapped == static_cast<long>(base + begin);
}

void LostPages::on_signal(int, siginfo_t* info, void*) {
  const int saved = errno;
  for (auto& slot : watched) {
    LostPages* const pages = slot.load(std::memory_order_acquire);
    if (pages != nullptr && pages->replace(*info)) {
      errno = saved;
      return;
    }
  }
  // Back at the instruction, it comes again, to whom it went before.
  ::sigaction(SIGBUS, &previous, nullptr);
  errno = saved;
}

}  // namespace daxfs
