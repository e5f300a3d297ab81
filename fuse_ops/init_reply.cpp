#include "fuse_ops/init_reply.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "base/unique_fd.h"
#include "fuse_ops/readahead.h"

namespace daxfs {
namespace {

// Newer than Debian 12's kernel headers: FUSE_DIRECT_IO_ALLOW_MMAP (1 << 36), as it stands in
// flags2.
constexpr std::uint32_t kInit2DirectIoAllowMmap = 1u << 4;

// FUSE_INIT's bodies as far as they are needed; the same in all minor versions from 23 on.
struct InitIn {
  std::uint32_t major, minor, max_readahead, flags, flags2;
};
constexpr std::size_t kOutReadahead = sizeof(fuse_out_header) + 8;
constexpr std::size_t kOutFlags = sizeof(fuse_out_header) + 12;
constexpr std::size_t kOutFlags2 = sizeof(fuse_out_header) + 32;

std::atomic<bool> long_setxattr = false;

void or_u32(std::byte* at, std::uint32_t bits) {
  std::uint32_t value = 0;
  std::memcpy(&value, at, sizeof value);
  value |= bits;
  std::memcpy(at, &value, sizeof value);
}

void add_features(const InitIn& offered, std::byte* answer) {
  constexpr std::uint32_t kAdded = FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT;
  or_u32(answer + kOutFlags, offered.flags & kAdded);
  long_setxattr = (offered.flags & FUSE_SETXATTR_EXT) != 0;
  const bool extended = (offered.flags & FUSE_INIT_EXT) != 0;
  if (extended && (offered.flags2 & kInit2DirectIoAllowMmap) != 0) {
    or_u32(answer + kOutFlags, FUSE_INIT_EXT);
    or_u32(answer + kOutFlags2, kInit2DirectIoAllowMmap);
  }
  // The kernel takes the smaller of this and what stands in sysfs; libfuse allows no more than the
  // kernel's default.
  std::memcpy(answer + kOutReadahead, &kReadaheadBytes, sizeof kReadaheadBytes);
}

// While there is one the descriptor stands for a socket.
class Detour {
 public:
  static std::optional<Detour> make(int fd) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return std::nullopt;
    UniqueFd near(ends[0]);
    const UniqueFd far(ends[1]);
    UniqueFd kernel(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (kernel.get() < 0 || ::dup3(far.get(), fd, O_CLOEXEC) < 0) return std::nullopt;
    return Detour(fd, std::move(kernel), std::move(near));
  }
  // The descriptor is what it was before. A detour that nobody ends stays.
  void end() { ::dup3(kernel_.get(), fd_, O_CLOEXEC); }
  // After the end: the next message that was written, or 0.
  std::size_t take(std::span<std::byte> into) const {
    const ssize_t got = ::recv(near_.get(), into.data(), into.size(), MSG_DONTWAIT);
    return got > 0 ? static_cast<std::size_t>(got) : 0;
  }

 private:
  Detour(int fd, UniqueFd kernel, UniqueFd near)
      : fd_(fd), kernel_(std::move(kernel)), near_(std::move(near)) {}

  int fd_;
  UniqueFd kernel_;
  UniqueFd near_;
};

}  // namespace

void serve_init(fuse_session* session, const Message& request, const fuse_buf& message) {
  long_setxattr = false;
  const int fd = fuse_session_fd(session);
  auto detour = Detour::make(fd);
  fuse_session_process_buf(session, &message);
  if (!detour) return;
  detour->end();
  std::array<std::byte, 4096> answer{};
  while (const std::size_t size = detour->take(answer)) {
    fuse_out_header header{};
    if (size >= sizeof header) std::memcpy(&header, answer.data(), sizeof header);
    const auto offered = request.body<InitIn>();
    const bool init = header.unique == request.header().unique && header.error == 0;
    if (init && offered && size >= kOutFlags2 + sizeof(std::uint32_t)) {
      add_features(*offered, answer.data());
    }
    if (::write(fd, answer.data(), size) < 0) return;  // ended meanwhile: the next read says so
  }
}

bool setxattr_is_long() { return long_setxattr.load(std::memory_order_relaxed); }

}  // namespace daxfs
