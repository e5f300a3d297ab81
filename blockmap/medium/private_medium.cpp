#include "blockmap/medium/private_medium.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace daxfs {
namespace {

constexpr std::uint64_t kChunk = 2 << 20;

constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

PrivateMedium::PrivateMedium(void* reserved, std::size_t reserved_bytes, std::byte* base,
                             ByteCount length, int fd)
    : reserved_(reserved),
      reserved_bytes_(reserved_bytes),
      copied_(length.value / kChunk + 1),
      fd_(fd) {
  base_ = base;
  size_ = length;
}

PrivateMedium::~PrivateMedium() {
  lost_.reset();
  ::munmap(reserved_, reserved_bytes_);
}

Outcome<std::unique_ptr<PrivateMedium>> PrivateMedium::map(int fd, const std::string& path,
                                                           ByteCount length) {
  const auto failed = [&] {
    const int code = errno;
    return problem(code, fmt::format("pool {}: cannot be mapped: {}", path, std::strerror(code)));
  };
  // Room for an aligned mapping, so that a chunk can be replaced whole.
  const std::size_t room = round_up(length.value, kChunk) + kChunk;
  void* const reserved =
      ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return failed();
  const auto address = reinterpret_cast<std::uintptr_t>(reserved);
  auto* const base = static_cast<std::byte*>(reserved) + (round_up(address, kChunk) - address);
  std::unique_ptr<PrivateMedium> medium(new PrivateMedium(reserved, room, base, length, fd));
  if (::mmap(base, length.value, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    return failed();
  }
  struct stat st {};
  const bool device = ::fstat(fd, &st) == 0 && S_ISCHR(st.st_mode);
  auto lost = LostPages::watch(base, length, device ? kChunk : kBlockSize);
  if (!lost) return problem(lost.error().code, fmt::format("pool {}: {}", path, lost.error().text));
  medium->lost_ = std::move(*lost);
  return medium;
}

std::byte* PrivateMedium::own(PoolOffset to, std::uint64_t length) {
  if (length == 0) return base_ + to.value;
  for (std::uint64_t chunk = to.value / kChunk; chunk <= (to.value + length - 1) / kChunk;
       ++chunk) {
    if (copied_[chunk]) continue;
    std::byte* const here = base_ + chunk * kChunk;
    const std::uint64_t bytes = std::min(kChunk, size_.value - chunk * kChunk);
    void* const copy =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) throw std::bad_alloc();
    // Holes are read without storage for them, which the filesystem below may not have.
    const ssize_t got = ::pread(fd_, copy, bytes, static_cast<off_t>(chunk * kChunk));
    const std::uint64_t read = got > 0 ? static_cast<std::uint64_t>(got) : 0;
    std::memcpy(static_cast<std::byte*>(copy) + read, here + read, bytes - read);
    if (::mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, here) == MAP_FAILED) {
      ::munmap(copy, bytes);
      throw std::bad_alloc();
    }
    copied_[chunk] = true;
  }
  return base_ + to.value;
}

void PrivateMedium::write(PoolOffset to, std::span<const std::byte> data) {
  std::byte* const place = own(to, data.size());
  if (!data.empty()) std::memcpy(place, data.data(), data.size());
}

void PrivateMedium::zero(PoolOffset to, ByteCount length) {
  std::memset(own(to, length.value), 0, length.value);
}

void PrivateMedium::store(PoolOffset to, std::span<const std::byte> data) {
  copy_small(own(to, data.size()), data);
}

}  // namespace daxfs
