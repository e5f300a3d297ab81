#include "fuse_ops/wire_hooks.h"

#include <linux/fuse.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

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
constexpr std::size_t kInitOutReadahead = 8;
constexpr std::size_t kInitOutFlags = 12;
constexpr std::size_t kInitOutFlags2 = 32;

struct Current {
  std::uint64_t unique = 0;
  std::uint32_t opcode = 0;
  std::uint32_t write_flags = 0;
  std::uint32_t init_flags = 0;
  std::uint32_t init_flags2 = 0;
  bool unreadable = false;
};
thread_local Current current;

// For tests: everything that the kernel can do once it has an answer happens before the handler
// goes on (DAXFS_TEST_REPLY_DELAY, in microseconds).
std::atomic<useconds_t> reply_delay = 0;

// For tests, too: replies to requests of this kind come so much later than they were made
// (DAXFS_TEST_LATE_REPLY, a FUSE opcode, a colon and microseconds).
std::uint32_t late_opcode = 0;
useconds_t late_by = 0;

template <class T>
T load(const std::byte* from) {
  T out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

void note_request(const std::byte* message, std::size_t size) {
  const auto header = load<fuse_in_header>(message);
  const std::byte* body = message + sizeof header;
  const std::size_t body_size = size - sizeof header;
  current = {.unique = header.unique, .opcode = header.opcode};
  if (header.opcode == FUSE_WRITE && body_size >= sizeof(fuse_write_in)) {
    current.write_flags = load<fuse_write_in>(body).write_flags;
  } else if (header.opcode == FUSE_INIT && body_size >= sizeof(InitIn)) {
    const auto in = load<InitIn>(body);
    current.init_flags = in.flags;
    current.init_flags2 = (in.flags & FUSE_INIT_EXT) != 0 ? in.flags2 : 0;
  }
}

void or_u32(std::byte* at, std::uint32_t bits) {
  const std::uint32_t value = load<std::uint32_t>(at) | bits;
  std::memcpy(at, &value, sizeof value);
}

void improve_reply(const iovec* parts, int count) {
  if (count < 2) return;
  auto* body = static_cast<std::byte*>(parts[1].iov_base);
  const std::size_t size = parts[1].iov_len;
  if (current.opcode == FUSE_INIT && size >= kInitOutFlags2 + 4) {
    // The kernel takes the smaller of this and what stands in sysfs; libfuse allows no more than
    // the kernel's default.
    std::memcpy(body + kInitOutReadahead, &kReadaheadBytes, sizeof kReadaheadBytes);
    or_u32(body + kInitOutFlags, current.init_flags & FUSE_HANDLE_KILLPRIV_V2);
    const std::uint32_t more = current.init_flags2 & kInit2DirectIoAllowMmap;
    if (more != 0) {
      or_u32(body + kInitOutFlags, FUSE_INIT_EXT);
      or_u32(body + kInitOutFlags2, more);
    }
  }
  std::size_t open_at = SIZE_MAX;
  if (current.opcode == FUSE_OPEN) open_at = 0;
  if (current.opcode == FUSE_CREATE) open_at = sizeof(fuse_entry_out);
  if (open_at == SIZE_MAX || size < open_at + sizeof(fuse_open_out)) return;
  std::byte* flags = body + open_at + offsetof(fuse_open_out, open_flags);
  if ((load<std::uint32_t>(flags) & FOPEN_DIRECT_IO) != 0)
    or_u32(flags, FOPEN_PARALLEL_DIRECT_WRITES);
}

ssize_t hooked_read(int fd, void* buffer, size_t size, void*) {
  const ssize_t got = ::read(fd, buffer, size);
  if (got >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
    note_request(static_cast<const std::byte*>(buffer), static_cast<std::size_t>(got));
  }
  return got;
}

ssize_t hooked_writev(int fd, iovec* parts, int count, void*) {
  const auto opcode = current.opcode;
  if ((opcode == FUSE_INIT || opcode == FUSE_OPEN || opcode == FUSE_CREATE) && count > 0 &&
      parts[0].iov_len >= sizeof(fuse_out_header)) {
    const auto header = load<fuse_out_header>(static_cast<const std::byte*>(parts[0].iov_base));
    if (header.unique == current.unique && header.error == 0) improve_reply(parts, count);
  }
  if (late_by != 0 && opcode == late_opcode) usleep(late_by);
  const ssize_t sent = ::writev(fd, parts, count);
  if (sent < 0 && errno == EFAULT) {
    // The reply pointed to pool memory that has no storage. The kernel has ended the request
    // itself, with EIO (fuse_dev_do_write); nothing is left to answer, which is what ENOENT says to
    // libfuse.
    current.unreadable = true;
    errno = ENOENT;
  }
  if (const useconds_t delay = reply_delay.load(std::memory_order_relaxed)) {
    const int kept = errno;
    usleep(delay);
    errno = kept;
  }
  return sent;
}

}  // namespace

bool install_wire_hooks(fuse_session* session) {
  if (const char* const delay = std::getenv("DAXFS_TEST_REPLY_DELAY")) {
    reply_delay = static_cast<useconds_t>(std::strtoul(delay, nullptr, 10));
  }
  if (const char* const late = std::getenv("DAXFS_TEST_LATE_REPLY")) {
    char* end = nullptr;
    late_opcode = static_cast<std::uint32_t>(std::strtoul(late, &end, 10));
    if (*end == ':') late_by = static_cast<useconds_t>(std::strtoul(end + 1, nullptr, 10));
  }
  static const fuse_custom_io hooks = [] {
    fuse_custom_io io{};  // later libfuse versions have more members
    io.writev = hooked_writev;
    io.read = hooked_read;
    return io;
  }();
  return fuse_session_custom_io(session, &hooks, fuse_session_fd(session)) == 0;
}

bool current_reply_was_unreadable() { return current.unreadable; }

bool current_write_drops_privileges() {
  return (current.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
}

}  // namespace daxfs
