// Requests as they come from /dev/fuse, before libfuse sees them: what it does not tell its callers
// of them, requests that it does not know, and answers that go to the kernel without it.
//
// Every message is handed to serve_message() by the thread that has read it, and everything here is
// about that thread's request.
#pragma once

#include <absl/functional/function_ref.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace daxfs {

// STATX, newer than Debian 12's kernel headers (7.39 of the protocol).
inline constexpr std::uint32_t kOpcodeStatx = 52;

// One request: its header, then a body, which is only as long as whoever sent it made it.
class Message {
 public:
  // Nothing for what is too short to have a header.
  static std::optional<Message> of(std::span<const std::byte> bytes);
  const fuse_in_header& header() const { return header_; }
  // What the body begins with; nothing if it is shorter.
  template <class T>
  std::optional<T> body() const {
    if (body_.size() < sizeof(T)) return std::nullopt;
    T out;
    std::memcpy(&out, body_.data(), sizeof out);
    return out;
  }

 private:
  fuse_in_header header_{};
  std::span<const std::byte> body_;
};

// Answers requests that libfuse does not know, with send_answer(); false for all others.
using AnswerBeyond = absl::FunctionRef<bool(const Message&)>;

// Serves one message: by `beyond`, else by libfuse and the session's operations. It may be written
// to. While an INIT is served no other thread may read from the session's descriptor; messages that
// another one writes meanwhile reach the kernel a little later.
void serve_message(fuse_session* session, std::span<std::byte> message, AnswerBeyond beyond);

// About the request that this thread serves.
//
// Whether it is to drop set-user-id and set-group-id bits (FUSE_WRITE_KILL_SUIDGID), or the
// set-group-id bit with a new access control list (FUSE_SETXATTR_ACL_KILL_SGID).
bool current_write_drops_privileges();
bool current_setxattr_drops_setgid();
// Its kind; 0 if the thread serves none.
std::uint32_t current_opcode();

// Answers it, once. 0, or an errno: ENOENT if the caller was interrupted and the kernel has
// dropped the answer; EFAULT if memory of the answer cannot be read, and the caller got EIO.
int send_answer(int error, std::span<const iovec> body);
// Answers it with data, in place of fuse_reply_iov(), of which nothing is copied but into the
// kernel: so it may lie in the pool. False: the pool's storage is gone there, and the caller got
// EIO.
bool reply_data(fuse_req_t req, std::span<const iovec> data);
// The same by any thread: the request is not the one that this thread handles.
bool reply_data_later(fuse_req_t req, std::span<const iovec> data);

// In place of fuse_reply_open() and fuse_reply_create(), which cannot say PARALLEL_DIRECT_WRITES
// before libfuse 3.17. 0, or an errno as send_answer() says.
int reply_open(fuse_req_t req, const fuse_file_info& info);
int reply_create(fuse_req_t req, const fuse_entry_param& entry, const fuse_file_info& info);
// The same for a request of `beyond`.
int send_create(const fuse_entry_param& entry, const fuse_file_info& info);

}  // namespace daxfs
