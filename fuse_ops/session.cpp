#include "fuse_ops/session.h"

#include <fmt/format.h>
#include <fuse_log.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/require.h"
#include "fuse_ops/notifier.h"
#include "fuse_ops/ops.h"
#include "fuse_ops/ops_beyond.h"
#include "fuse_ops/readahead.h"
#include "fuse_ops/reply_delay.h"
#include "fuse_ops/request_loop.h"
#include "fuse_ops/shutdown.h"
#include "fuse_ops/signals.h"

namespace daxfs {
namespace {

void warn_of_request_limit(std::optional<std::chrono::seconds> limit) {
  if (!limit) return;
  spdlog::warn(
      "this kernel ends a mount when a request takes {} s (fs.fuse.default_request_timeout, "
      "fs.fuse.max_request_timeout): what waits for pins or events fails with EINTR after {} s, "
      "and goes on where it was when it is repeated; set both to 0 before mounting to wait without "
      "limit",
      limit->count(), static_cast<double>(limit->count()) / 2);
}

// From 3.17 on libfuse has a word of 64 bits for what is wanted, and takes either the old one or
// that.
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
void want(fuse_conn_info* connection, std::uint64_t bits) {
  connection->want_ext |= connection->capable_ext & bits;
}
void refuse(fuse_conn_info* connection, std::uint64_t bits) { connection->want_ext &= ~bits; }
#else
void want(fuse_conn_info* connection, unsigned bits) {
  connection->want |= connection->capable & bits;
}
void refuse(fuse_conn_info* connection, unsigned bits) { connection->want &= ~bits; }
#endif

void init(void* context, fuse_conn_info* connection) {
  want(connection, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                       FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                       FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA |
                       FUSE_CAP_EXPORT_SUPPORT);
  // Splicing costs a memory-backed server more than it saves. Automatic invalidation would throw
  // the page cache away after each of our own writes. O_TRUNC comes as a truncate of its own, so
  // that one place asks the gate. Privileges are dropped by version 2 of that protocol
  // (init_reply.h).
  refuse(connection, FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                         FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_ATOMIC_O_TRUNC |
                         FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_WRITEBACK_CACHE);
  connection->max_write = kMaxWriteBytes;
  connection->max_background = 64;
  connection->congestion_threshold = 48;
  connection->time_gran = 1;
  ops::Context& session = ops::context(context);
  if (session.filesystem.mount().options.cache == CacheMode::writeback) {
    want(connection, FUSE_CAP_WRITEBACK_CACHE);
    // Reads past the cache may have to wait until pages are written back. As background requests
    // they could take all of the places that the kernel needs for that.
    refuse(connection, FUSE_CAP_ASYNC_DIO);
  }
  // With access control lists, a new file's mode is what the directory's default list leaves of it,
  // or else the umask; so the kernel leaves that to us.
  constexpr unsigned acls = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  refuse(connection, acls);
  if (session.filesystem.mount().options.acl) want(connection, acls);
  warn_of_request_limit(session.filesystem.mount().request_limit);
  session.initialised = true;
}

// libfuse splits its option string at commas.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == ',' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

bool others_write(const struct stat& status) {
  return status.st_uid != 0 || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
}

// What somebody else than root can write, and so decide what is in the pool; "" if there is none.
// A user who may write the pool may write any inode into it, also a set-user-id program of root's.
// (An access control list shows in the bits of the group.) A user who may write a directory above
// it can put another file of root's in its place, unless the directory is sticky.
std::string written_by_others(const Pool* pool) {
  struct stat status {};
  if (pool == nullptr || fstat(pool->descriptor(), &status) != 0 || others_write(status))
    return pool == nullptr ? "(none)" : pool->path();
  for (std::filesystem::path at = pool->path(); at.has_relative_path();) {
    at = at.parent_path();
    const bool known = stat(at.c_str(), &status) == 0;
    const bool sticky = known && status.st_uid == 0 && (status.st_mode & S_ISVTX) != 0;
    if (!known || (others_write(status) && !sticky)) return at;
  }
  return {};
}

// Which of `word` and its opposite the administrator has named last; nothing if neither.
std::optional<bool> asked_for(const std::vector<std::string>& words, const std::string& word) {
  std::optional<bool> asked;
  for (const std::string& one : words) {
    if (one == word || one == "no" + word) asked = one == word;
  }
  return asked;
}

// What root's mount has, like a disk's, and what is said about it. Later words win.
std::string privileges(const SessionOptions& options, const MountOptions& mount, const Pool* pool) {
  const std::string written = written_by_others(pool);
  if (written.empty()) return ",dev,suid";
  const auto suid = asked_for(mount.kernel, "suid");
  const auto dev = asked_for(mount.kernel, "dev");
  if (suid.value_or(false) || dev.value_or(false)) {
    spdlog::warn(
        "{}: mounted with suid or dev, as asked for, though not only root can write {}: who writes "
        "it can become root",
        options.mountpoint, written);
  }
  if (!suid || !dev) {
    spdlog::info(
        "{0}: mounted {1}, because not only root can write {2}, and so decide what is in the pool; "
        "chown root {2} and chmod go-w {2}, or mount with -o suid,dev if all who can write it may "
        "become root",
        options.mountpoint,
        suid  ? "nodev"
        : dev ? "nosuid"
              : "nosuid,nodev",
        written);
  }
  return ",nodev,nosuid";
}

std::string mount_options(const SessionOptions& options, const MountOptions& mount,
                          const Pool* pool) {
  std::string text =
      fmt::format("fsname={},subtype=daxfs,default_permissions", escaped(options.source));
  if (geteuid() == 0) text += ",allow_other" + privileges(options, mount, pool);
  if (mount.read_only) text += ",ro";
  for (const std::string& option : mount.kernel) text += "," + option;
  return text;
}

// What libfuse says once it is mounted, into our log, which a daemon in the background has, too. It
// repeats itself with every request when there is no room for another thread.
void log_of_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  constexpr unsigned kMostAlike = 3;
  static std::atomic<const char*> last = nullptr;
  static std::atomic<unsigned> alike = 0;
  if (last.exchange(format) != format) alike = 0;
  if (alike.fetch_add(1) >= kMostAlike) return;
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, arguments);
  text[std::strcspn(text.data(), "\n")] = '\0';
  spdlog::log(level <= FUSE_LOG_ERR ? spdlog::level::err : spdlog::level::warn, "libfuse: {}",
              text.data());
}

using SessionPtr = std::unique_ptr<fuse_session, decltype(&fuse_session_destroy)>;

// Has the kernel write what it keeps of files that are open: stores through mappings, and, with
// cache=writeback, what write(2) has left there. Who unmounts has closed them; a signal does not.
void write_all_back(ops::Context& context) {
  std::set<const Inode*> told;
  for (const OpenFileRef& file : context.open_files.all()) {
    if (told.insert(&*file->inode).second)
      context.filesystem.kernel_pages().write_back(*file, [](bool) {});
  }
}

// The kernel's side of a mount, from libfuse's session to its end.
class FuseSession : public Session {
 public:
  explicit FuseSession(SessionOptions options) : options_(std::move(options)) {}

  Outcome<void> set_up(std::string option_text);
  KernelCache& kernel_cache() override {
    DAXFS_REQUIRE(notifier_.has_value(), "there is no session to tell the kernel by");
    return *notifier_;
  }
  Outcome<void> serve(Filesystem& filesystem, const std::function<void()>& on_ready) override;

 private:
  // Nothing is mounted if it fails.
  Outcome<void> attach();

  const SessionOptions options_;
  ops::Pollers pollers_;
  ops::UserData context_;
  SessionPtr session_{nullptr, fuse_session_destroy};
  std::optional<Notifier> notifier_;
};

Outcome<void> FuseSession::set_up(std::string option_text) {
  std::string program = "daxfs";
  std::string option_word = "-o";
  std::string debug_word = "-d";
  std::array<char*, 4> argv{program.data(), option_word.data(), option_text.data(),
                            debug_word.data()};
  fuse_args args = FUSE_ARGS_INIT(options_.debug ? 4 : 3, argv.data());
  const fuse_lowlevel_ops all = ops::all_operations();
  session_.reset(fuse_session_new(&args, &all, sizeof all, &context_));
  fuse_opt_free_args(&args);
  if (!session_) {
    return problem(EINVAL, fmt::format("{}: libfuse refused the mount options '{}'",
                                       options_.mountpoint, option_text));
  }
  // Before anything is mounted: the threads may be more than can be had.
  notifier_.emplace(session_.get(), pollers_);
  return {};
}

Outcome<void> FuseSession::attach() {
  if (fuse_set_signal_handlers(session_.get()) != 0) {
    return problem(errno, fmt::format("{}: cannot set up signal handling", options_.mountpoint));
  }
  if (fuse_session_mount(session_.get(), options_.mountpoint.c_str()) != 0) {
    const int code = errno;
    fuse_remove_signal_handlers(session_.get());
    return problem(
        code, fmt::format(
                  "{}: cannot mount (see the line above); is /dev/fuse there, and are you root or "
                  "is fusermount3 installed?",
                  options_.mountpoint));
  }
  if (!prepare_reply_delays(session_.get())) {
    spdlog::warn("{}: this libfuse lets nobody delay its replies", options_.mountpoint);
  }
  return {};
}

Outcome<void> FuseSession::serve(Filesystem& filesystem, const std::function<void()>& on_ready) {
  std::atomic<bool> ready = false;
  context_.emplace(filesystem, pollers_);
  // It refers to the filesystem.
  const std::unique_ptr<ops::UserData, void (*)(ops::UserData*)> end_context(
      &context_, [](ops::UserData* context) { context->reset(); });
  const auto after_init = [&] {
    if (!context_->initialised) return;  // it was refused
    raise_readahead(options_.mountpoint);
    ready = true;
    on_ready();
  };
  RequestLoop loop(session_.get(), {.beyond =
                                        [this](const Message& request) {
                                          return ops::refuse_if_shut_down(*context_, request) ||
                                                 ops::answer_beyond(*context_, request);
                                        },
                                    .after_init = after_init});
  // A page that is dropped may first have to be written or read, by a worker; and without one its
  // dropping, which nothing can kill, would never end.
  SignalsEndSession signals(
      [&] {
        filesystem.stop_waiting();
        write_all_back(*context_);
        notifier_->finish();
      },
      [&] { loop.stop(); });
  if (auto attached = attach(); !attached) return attached;
  if (!options_.debug) fuse_set_log_func(log_of_libfuse);

  const int ended = loop.run();
  signals.ended();

  filesystem.stop_waiting();  // while there is a connection to answer on
  notifier_->disconnect();
  while (auto file = context_->open_files.take_any()) filesystem.files().abandon(std::move(file));
  fuse_session_unmount(session_.get());
  fuse_remove_signal_handlers(session_.get());
  fuse_set_log_func(nullptr);
  filesystem.unmount();
  if (ended == 0) return {};
  if (!ready) return no_threads_left(options_.mountpoint);
  spdlog::error("{}: the FUSE connection ended: {}", options_.mountpoint, strerror(ended));
  return {};
}

}  // namespace

fuse_lowlevel_ops ops::all_operations() {
  fuse_lowlevel_ops all{};
  all.init = init;
  ops::add_namespace_ops(all);
  ops::add_directory_ops(all);
  ops::add_attribute_ops(all);
  ops::add_file_ops(all);
  ops::add_ioctl_ops(all);
  return all;
}

std::unexpected<Problem> no_threads_left(const std::string& mountpoint) {
  return problem(EAGAIN,
                 fmt::format("{}: cannot start the threads that serve it: there are as many "
                             "as may be; raise the limit (ulimit -u, or the cgroup's "
                             "pids.max)",
                             mountpoint));
}

std::optional<std::chrono::seconds> kernel_request_limit() {
  std::optional<std::chrono::seconds> limit;
  for (const char* knob : {"default_request_timeout", "max_request_timeout"}) {
    std::ifstream file(std::string("/proc/sys/fs/fuse/") + knob);
    std::int64_t seconds = 0;
    if (!(file >> seconds) || seconds <= 0) continue;  // older kernels have none
    limit = std::min(limit.value_or(std::chrono::seconds::max()), std::chrono::seconds(seconds));
  }
  return limit;
}

Outcome<std::unique_ptr<Session>> Session::make(const SessionOptions& options,
                                                const MountOptions& mount, const Pool* pool) {
  auto session = std::make_unique<FuseSession>(options);
  if (auto made = session->set_up(mount_options(options, mount, pool)); !made) {
    return std::unexpected(made.error());
  }
  return session;
}

}  // namespace daxfs
