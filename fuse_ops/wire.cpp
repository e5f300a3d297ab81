#include "fuse_ops/wire.h"

#include <absl/container/inlined_vector.h>

#include <atomic>
#include <cerrno>
#include <cmath>

#include "fuse_ops/init_reply.h"
#include "fuse_ops/reply_delay.h"

namespace daxfs {
namespace {

struct Current {
  int fd = -1;
  std::uint64_t unique = 0;
  std::uint32_t opcode = 0;
  std::uint32_t flags = 0;  // of a WRITE or SETXATTR
};
thread_local Current current;

// Makes the short SETXATTR, the only one that libfuse reads, of the long one, whose flags are kept.
// What is left of the message.
std::span<std::byte> shorten_setxattr(const Message& request, std::span<std::byte> message) {
  const auto setxattr = request.body<fuse_setxattr_in>();
  if (!setxattr) return message;
  current.flags = setxattr->setxattr_flags;
  constexpr std::size_t kKept = sizeof(fuse_in_header) + FUSE_COMPAT_SETXATTR_IN_SIZE;
  constexpr std::size_t kGone = sizeof(fuse_setxattr_in) - FUSE_COMPAT_SETXATTR_IN_SIZE;
  std::memmove(message.data() + kKept, message.data() + kKept + kGone,
               message.size() - kKept - kGone);
  const auto shorter = message.first(message.size() - kGone);
  fuse_in_header header = request.header();
  header.len = static_cast<std::uint32_t>(shorter.size());
  std::memcpy(shorter.data(), &header, sizeof header);
  return shorter;
}

fuse_open_out open_out(const fuse_file_info& info) {
  fuse_open_out out{};
  out.fh = info.fh;
  if (info.direct_io != 0) out.open_flags |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  if (info.keep_cache != 0) out.open_flags |= FOPEN_KEEP_CACHE;
  if (info.noflush != 0) out.open_flags |= FOPEN_NOFLUSH;
  return out;
}

struct Seconds {
  std::uint64_t whole;
  std::uint32_t nanoseconds;
};
Seconds in_seconds(double time) {
  const double whole = std::floor(time);
  return {static_cast<std::uint64_t>(whole), static_cast<std::uint32_t>((time - whole) * 1e9)};
}

fuse_entry_out entry_out(const fuse_entry_param& entry) {
  fuse_entry_out out{};
  out.nodeid = entry.ino;
  out.generation = entry.generation;
  const Seconds names = in_seconds(entry.entry_timeout);
  out.entry_valid = names.whole;
  out.entry_valid_nsec = names.nanoseconds;
  const Seconds attributes = in_seconds(entry.attr_timeout);
  out.attr_valid = attributes.whole;
  out.attr_valid_nsec = attributes.nanoseconds;
  const struct stat& from = entry.attr;
  fuse_attr& to = out.attr;
  to.ino = from.st_ino;
  to.mode = from.st_mode;
  to.nlink = static_cast<std::uint32_t>(from.st_nlink);
  to.uid = from.st_uid;
  to.gid = from.st_gid;
  to.rdev = static_cast<std::uint32_t>(from.st_rdev);
  to.size = static_cast<std::uint64_t>(from.st_size);
  to.blksize = static_cast<std::uint32_t>(from.st_blksize);
  to.blocks = static_cast<std::uint64_t>(from.st_blocks);
  to.atime = static_cast<std::uint64_t>(from.st_atim.tv_sec);
  to.atimensec = static_cast<std::uint32_t>(from.st_atim.tv_nsec);
  to.mtime = static_cast<std::uint64_t>(from.st_mtim.tv_sec);
  to.mtimensec = static_cast<std::uint32_t>(from.st_mtim.tv_nsec);
  to.ctime = static_cast<std::uint64_t>(from.st_ctim.tv_sec);
  to.ctimensec = static_cast<std::uint32_t>(from.st_ctim.tv_nsec);
  return out;
}

template <class T>
iovec piece(T& object) {
  return {&object, sizeof object};
}

}  // namespace

std::optional<Message> Message::of(std::span<const std::byte> bytes) {
  Message message;
  if (bytes.size() < sizeof message.header_) return std::nullopt;
  std::memcpy(&message.header_, bytes.data(), sizeof message.header_);
  message.body_ = bytes.subspan(sizeof message.header_);
  return message;
}

void serve_message(fuse_session* session, std::span<std::byte> message, AnswerBeyond beyond) {
  const auto request = Message::of(message);
  if (!request) return;
  const std::uint32_t opcode = request->header().opcode;
  current = {.fd = fuse_session_fd(session), .unique = request->header().unique, .opcode = opcode};
  if (opcode == FUSE_WRITE) {
    if (const auto write = request->body<fuse_write_in>()) current.flags = write->write_flags;
  } else if (opcode == FUSE_SETXATTR && setxattr_is_long()) {
    message = shorten_setxattr(*request, message);
  }
  if (beyond(*request)) return;
  fuse_buf buffer{};
  buffer.mem = message.data();
  buffer.size = message.size();
  if (opcode == FUSE_INIT) {
    serve_init(session, *request, buffer);
  } else {
    fuse_session_process_buf(session, &buffer);
  }
}

bool current_write_drops_privileges() {
  return current.opcode == FUSE_WRITE && (current.flags & FUSE_WRITE_KILL_SUIDGID) != 0;
}

bool current_setxattr_drops_setgid() {
  return current.opcode == FUSE_SETXATTR && (current.flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
}

std::uint32_t current_opcode() { return current.opcode; }

int send_answer(int error, std::span<const iovec> body) {
  fuse_out_header header{};
  header.unique = current.unique;
  header.error = -error;
  absl::InlinedVector<iovec, 5> parts{piece(header)};
  std::size_t size = sizeof header;
  for (const iovec& part : body) {
    parts.push_back(part);
    size += part.iov_len;
  }
  header.len = static_cast<std::uint32_t>(size);
  delay_before_reply(current.opcode);
  const bool sent = ::writev(current.fd, parts.data(), static_cast<int>(parts.size())) >= 0;
  const int why = sent ? 0 : errno;
  delay_after_reply();
  return why;
}

bool reply_data(fuse_req_t req, std::span<const iovec> data) {
  const int failed = send_answer(0, data);
  fuse_reply_none(req);
  // Where memory has no storage the kernel has ended the request itself, with EIO
  // (fuse_dev_do_write); nothing is left to answer.
  return failed != EFAULT;
}

bool reply_data_later(fuse_req_t req, std::span<const iovec> data) {
  return fuse_reply_iov(req, data.data(), static_cast<int>(data.size())) != -EFAULT;
}

int reply_open(fuse_req_t req, const fuse_file_info& info) {
  fuse_open_out out = open_out(info);
  const iovec body = piece(out);
  const int failed = send_answer(0, {&body, 1});
  fuse_reply_none(req);
  return failed;
}

int send_create(const fuse_entry_param& entry, const fuse_file_info& info) {
  fuse_entry_out named = entry_out(entry);
  fuse_open_out opened = open_out(info);
  const iovec body[] = {piece(named), piece(opened)};
  return send_answer(0, body);
}

int reply_create(fuse_req_t req, const fuse_entry_param& entry, const fuse_file_info& info) {
  const int failed = send_create(entry, info);
  fuse_reply_none(req);
  return failed;
}

}  // namespace daxfs
