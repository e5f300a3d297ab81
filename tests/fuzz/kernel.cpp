#include "tests/fuzz/kernel.h"

#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/unique_fd.h"
#include "fuse_ops/notifier.h"
#include "fuse_ops/ops.h"
#include "fuse_ops/ops_beyond.h"
#include "fuse_ops/wire.h"
#include "tests/fuzz/target.h"

namespace daxfs::fuzz {
namespace {

constexpr int kSocketBytes = 8 << 20;

template <class T>
T head_of(const std::string& body, std::size_t at = 0) {
  T out{};
  if (at + sizeof out <= body.size()) std::memcpy(&out, body.data() + at, sizeof out);
  return out;
}

bool wants_no_answer(std::uint32_t opcode) {
  // An INTERRUPT is answered (EAGAIN) only if what it names is unknown.
  return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

// Of an open file: their bodies begin with its handle.
bool is_on_a_handle(std::uint32_t opcode) {
  return opcode == FUSE_READ || opcode == FUSE_WRITE || opcode == FUSE_IOCTL ||
         opcode == FUSE_POLL || opcode == FUSE_FALLOCATE || opcode == FUSE_LSEEK;
}

}  // namespace

struct Kernel::Session {
  explicit Session(Filesystem& filesystem);

  UniqueFd kernel_end;
  ops::Pollers pollers;
  ops::UserData context;
  std::unique_ptr<fuse_session, decltype(&fuse_session_destroy)> session{nullptr,
                                                                         fuse_session_destroy};
  std::optional<Notifier> notifier;
};

Kernel::Session::Session(Filesystem& filesystem) {
  context.emplace(filesystem, pollers);
  int ends[2];
  require(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "no socket pair");
  kernel_end = UniqueFd(ends[0]);
  for (const int end : ends) {
    if (::setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof kSocketBytes) != 0) {
      ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes);
    }
  }
  std::string program = "daxfs";
  char* argv[] = {program.data()};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  const fuse_lowlevel_ops all = ops::all_operations();
  session.reset(fuse_session_new(&args, &all, sizeof all, &context));
  fuse_opt_free_args(&args);
  require(session != nullptr, "no session");
  // libfuse takes a descriptor that somebody else has mounted, and owns it then.
  require(fuse_session_mount(session.get(), fmt::format("/dev/fd/{}", ends[1]).c_str()) == 0,
          "no connection");
  notifier.emplace(session.get(), pollers);
}

Kernel::Kernel(Filesystem& filesystem, KernelRelay& relay, bool modern)
    : filesystem_(filesystem),
      relay_(relay),
      is_modern_(modern),
      session_(std::make_unique<Session>(filesystem)) {
  relay_.set_kernel(&*session_->notifier);
  fuse_init_in init{};
  init.major = FUSE_KERNEL_VERSION;
  init.minor = FUSE_KERNEL_MINOR_VERSION;
  init.max_readahead = 1 << 20;
  init.flags = modern ? ~0u : 0;
  init.flags2 = modern ? ~0u : 0;
  const auto number = send(FUSE_INIT, 0, bytes_of(init), {});
  require(answer(number) && answer(number)->error == 0, "INIT was refused");
}

Kernel::~Kernel() {
  // libfuse keeps an INTERRUPT of what it does not know until another request comes, and loses it
  // if none does.
  for (; interrupts_ > 0; --interrupts_) send(FUSE_STATFS, FUSE_ROOT_ID, {}, {});
  // As serve() does it.
  filesystem_.stop_waiting();
  session_->notifier->disconnect();
  relay_.set_kernel(nullptr);
  while (auto file = session_->context->open_files.take_any())
    filesystem_.files().abandon(std::move(file));
  filesystem_.unmount();
  collect();
  require_all_answered();
}

std::uint64_t Kernel::send(std::uint32_t opcode, std::uint64_t node, std::string_view body,
                           const Sender& sender) {
  const std::uint64_t number = next_request_;
  next_request_ += 2;
  fuse_in_header header{};
  header.len = static_cast<std::uint32_t>(sizeof header + body.size());
  header.opcode = opcode;
  header.unique = number;
  header.nodeid = node;
  header.uid = sender.uid;
  header.gid = sender.gid;
  header.pid = sender.pid;
  std::string message(bytes_of(header));
  message += body;
  require(::send(session_->kernel_end.get(), message.data(), message.size(), 0) ==
              static_cast<ssize_t>(message.size()),
          fmt::format("cannot send {} bytes", message.size()));
  if (opcode == FUSE_INTERRUPT) ++interrupts_;
  if (!wants_no_answer(opcode)) {
    const auto fh = is_on_a_handle(opcode) ? head_of<std::uint64_t>(std::string(body)) : 0;
    pending_[number] = {opcode, node, fh, false, {}};
  }

  // In a buffer of just its size, so that a sanitizer sees who reads on behind its end.
  const auto exact = std::make_unique_for_overwrite<std::byte[]>(message.size());
  const ssize_t got = ::read(fuse_session_fd(session_->session.get()), exact.get(), message.size());
  require(got == static_cast<ssize_t>(message.size()), "the message was not received");
  serve_message(
      session_->session.get(), {exact.get(), message.size()},
      [this](const Message& request) { return ops::answer_beyond(*session_->context, request); });
  collect();
  return number;
}

std::optional<Answer> Kernel::answer(std::uint64_t request) const {
  const auto found = pending_.find(request);
  if (found == pending_.end() || !found->second.answered) return std::nullopt;
  return found->second.answer;
}

void Kernel::collect() {
  static std::vector<char> buffer(4 << 20);
  for (;;) {
    const ssize_t got =
        ::recv(session_->kernel_end.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0) return;
    fuse_out_header header{};
    require(got >= static_cast<ssize_t>(sizeof header), "an answer without a header");
    std::memcpy(&header, buffer.data(), sizeof header);
    require(header.len == static_cast<std::uint32_t>(got), "an answer of another length");
    if (header.unique == 0) continue;  // a notification
    require(header.error <= 0 && header.error > -4096, "an impossible error");
    const auto found = pending_.find(header.unique);
    if (found == pending_.end()) {
      require(header.error == -EAGAIN, "an answer to what was not asked");
      continue;
    }
    Pending& pending = found->second;
    require(!pending.answered, fmt::format("opcode {}: two answers", pending.opcode));
    pending.answered = true;
    pending.answer.error = -header.error;
    pending.answer.body.assign(buffer.data() + sizeof header,
                               static_cast<std::size_t>(got) - sizeof header);
    if (header.error == 0) note(header.unique, pending);
  }
}

void Kernel::note_entry(const fuse_entry_out& entry) {
  if (entry.nodeid == 0 || entry.nodeid == FUSE_ROOT_ID) return;
  if (lookups_[entry.nodeid]++ == 0) nodes_.push_back(entry.nodeid);
}

void Kernel::note(std::uint64_t, Pending& pending) {
  const std::string& body = pending.answer.body;
  switch (pending.opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
      note_entry(head_of<fuse_entry_out>(body));
      break;
    case FUSE_CREATE:
    case FUSE_TMPFILE: {
      const auto entry = head_of<fuse_entry_out>(body);
      note_entry(entry);
      handles_.push_back({entry.nodeid, head_of<fuse_open_out>(body, sizeof entry).fh, false});
      break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR:
      handles_.push_back(
          {pending.node, head_of<fuse_open_out>(body).fh, pending.opcode == FUSE_OPENDIR});
      break;
    case FUSE_READDIRPLUS:
      for (std::size_t at = 0; at + FUSE_NAME_OFFSET_DIRENTPLUS <= body.size();) {
        const auto one = head_of<fuse_direntplus>(body, at);
        note_entry(one.entry_out);
        at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + one.dirent.namelen);
      }
      break;
    default:
      break;
  }
}

void Kernel::forget(std::size_t node, const Sender& sender) {
  if (node == 0 || !waits_for_none([](const Pending&) { return true; })) return;
  const std::uint64_t number = nodes_[node];
  const fuse_forget_in forget{lookups_[number]};
  nodes_.erase(nodes_.begin() + static_cast<std::ptrdiff_t>(node));
  lookups_.erase(number);
  send(FUSE_FORGET, number, bytes_of(forget), sender);
}

void Kernel::release(std::size_t handle, const Sender& sender) {
  const Handle closed = handles_[handle];
  if (!waits_for_none([&](const Pending& pending) { return pending.fh == closed.fh; })) return;
  handles_.erase(handles_.begin() + static_cast<std::ptrdiff_t>(handle));
  fuse_release_in body{};
  body.fh = closed.fh;
  send(closed.directory ? FUSE_RELEASEDIR : FUSE_RELEASE, closed.node, bytes_of(body), sender);
}

bool Kernel::waits_for_none(const std::function<bool(const Pending&)>& such) {
  collect();
  return std::ranges::none_of(pending_, [&](const auto& request) {
    return !request.second.answered && such(request.second);
  });
}

void Kernel::require_all_answered() const {
  for (const auto& [number, pending] : pending_) {
    require(pending.answered, fmt::format("opcode {}: no answer", pending.opcode));
  }
}

}  // namespace daxfs::fuzz
