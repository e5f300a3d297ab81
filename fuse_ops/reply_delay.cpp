#include "fuse_ops/reply_delay.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "fuse_ops/wire.h"

namespace daxfs {
namespace {

useconds_t after_each = 0;
std::uint32_t late_opcode = 0;
useconds_t late_by = 0;

ssize_t delayed_writev(int fd, iovec* parts, int count, void*) {
  delay_before_reply(current_opcode());
  const ssize_t sent = ::writev(fd, parts, count);
  delay_after_reply();
  return sent;
}

// libfuse wants one, though it never reads (RequestLoop does).
ssize_t plain_read(int fd, void* buffer, size_t size, void*) { return ::read(fd, buffer, size); }

}  // namespace

bool prepare_reply_delays(fuse_session* session) {
  if (const char* const delay = std::getenv("DAXFS_TEST_REPLY_DELAY")) {
    after_each = static_cast<useconds_t>(std::strtoul(delay, nullptr, 10));
  }
  if (const char* const late = std::getenv("DAXFS_TEST_LATE_REPLY")) {
    char* end = nullptr;
    late_opcode = static_cast<std::uint32_t>(std::strtoul(late, &end, 10));
    if (*end == ':') late_by = static_cast<useconds_t>(std::strtoul(end + 1, nullptr, 10));
  }
  if (after_each == 0 && late_by == 0) return true;
  static const fuse_custom_io hooks = [] {
    fuse_custom_io io{};  // later libfuse versions have more members
    io.writev = delayed_writev;
    io.read = plain_read;
    return io;
  }();
  return fuse_session_custom_io(session, &hooks, fuse_session_fd(session)) == 0;
}

void delay_before_reply(std::uint32_t opcode) {
  if (late_by != 0 && opcode == late_opcode) usleep(late_by);
}

void delay_after_reply() {
  if (after_each == 0) return;
  const int kept = errno;
  usleep(after_each);
  errno = kept;
}

}  // namespace daxfs
