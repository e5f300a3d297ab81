// daxfs POOL MOUNTPOINT [-f] [-o OPTIONS]: mounts a pool.
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <thread>

#include "base/memory_reserve.h"
#include "base/pinned_pages.h"
#include "base/size_text.h"
#include "blockmap/medium/pool.h"
#include "blockmap/medium/pool_lock.h"
#include "blockmap/pin_lock.h"
#include "blockmap/volume/volume.h"
#include "fuse_ops/session.h"
#include "src/mountpoint.h"
#include "src/options.h"
#include "tools/mount/remount.h"
#include "tools/mount/second_mount.h"
#include "tools/standard_streams.h"
#include "tools/usage.h"

namespace {

using daxfs::Outcome;
using daxfs::problem;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

struct Arguments {
  std::string pool;
  std::string mountpoint;
  std::string options;
  bool foreground = false;
  bool debug = false;
};

int complain(const daxfs::Problem& what, int code = kExitFailed) {
  fmt::print(stderr, "daxfs: {}\n", what.text);
  return code;
}

std::string option_help() {
  std::string text = "Mount options (-o, comma-separated):\n";
  for (const daxfs::OptionHelp& option : daxfs::mount_option_help()) {
    text += fmt::format("  {}\n      {}\n", option.name, option.text);
  }
  text +=
      "  Options of mount(8) and fstab such as auto, nofail, _netdev, user and x-* are accepted "
      "and ignored.\n";
  return text;
}

// After a crash an administrator wants to know that there was one.
void tell_of_former_end(const daxfs::Volume& volume, const std::string& pool) {
  const daxfs::Volume::MountReport& report = volume.report();
  if (report.was_clean) return;
  spdlog::info(
      "{}: not unmounted the last time (a crash, a power failure, a killed daemon): {} changes "
      "were finished from the journal, {} unlinked files freed, {} truncations ended",
      pool, report.replayed, report.orphans_freed, report.detaches_finished);
}

Outcome<void> serve_volume(const Arguments& arguments, const daxfs::MountOptions& options,
                           daxfs::Pool& pool, daxfs::Volume& volume,
                           const std::function<void()>& ready) {
  const auto session =
      daxfs::Session::make({pool.path(), arguments.mountpoint, arguments.debug}, options, &pool);
  if (!session) return std::unexpected(session.error());
  daxfs::Filesystem filesystem({.volume = volume,
                                .pool = &pool,
                                .options = options,
                                .mountpoint = arguments.mountpoint,
                                .kernel = &(*session)->kernel_cache(),
                                .request_limit = daxfs::kernel_request_limit()});
  if (options.gate.pin_policy == daxfs::PinPolicy::ignore) {
    spdlog::warn(
        "{}: pin_policy=ignore frees pinned blocks: holders WILL see and cause corruption; for "
        "demonstrations only",
        arguments.mountpoint);
  }
  return (*session)->serve(filesystem, [&] {
    fmt::print("{} on {}: {}, granularity {}{}, pin_policy={}{}\n", pool.path(),
               arguments.mountpoint, daxfs::format_size(daxfs::bytes(volume.data_blocks())),
               daxfs::to_string(pool.granularity()),
               pool.is_dax() ? ", DAX" : " (no DAX: emulated)",
               daxfs::to_string(options.gate.pin_policy),
               options.cache == daxfs::CacheMode::through
                   ? ""
                   : fmt::format(", cache={}", daxfs::to_string(options.cache)));
    std::fflush(stdout);
    ready();
    tell_of_former_end(volume, pool.path());
  });
}

// Everything from opening the pool to the unmount. `ready` is called once the mount answers.
Outcome<void> run(const Arguments& arguments, const daxfs::MountOptions& options,
                  const std::function<void()>& ready) {
  auto pool = daxfs::Pool::open(arguments.pool, {.read_only = options.read_only,
                                                 .lock_timeout_seconds = daxfs::kFormerUserSeconds,
                                                 .on_wait = [](const std::string& path) {
                                                   fmt::print(stderr, "daxfs: {}: {}\n", path,
                                                              daxfs::kFormerUserText);
                                                 }});
  if (!pool) return std::unexpected(pool.error());
  const daxfs::OwnerAlive alive =
      options.gate.exit_grace_ms == 0 ? daxfs::is_alive : daxfs::may_be_in_use;
  auto volume = daxfs::Volume::open((*pool)->medium(), (*pool)->path(), options.read_only,
                                    std::max(1u, std::thread::hardware_concurrency()), alive,
                                    daxfs::pin_locks_of((*pool)->descriptor()));
  if (!volume) return std::unexpected(volume.error());

  const daxfs::MemoryReserve reserve;
  try {
    return serve_volume(arguments, options, **pool, **volume, ready);
  } catch (const std::system_error&) {
    return daxfs::no_threads_left(arguments.mountpoint);
  }
}

void detach_from_terminal() {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {0, 1, 2}) dup2(null, fd);
  close(null);
  spdlog::set_default_logger(spdlog::syslog_logger_mt("daxfs", "daxfs", LOG_PID, LOG_DAEMON));
}

volatile pid_t waited_for = 0;

void interrupt_both(int number) {
  kill(waited_for, SIGTERM);
  std::signal(number, SIG_DFL);
  raise(number);
}

// Threads take their stacks' size from `ulimit -s`, which says nothing about the daemon's needs.
void enlarge_stacks() {
  constexpr std::size_t kLeast = 1 << 20;
  pthread_attr_t attributes;
  std::size_t size = 0;
  if (pthread_getattr_default_np(&attributes) != 0) return;
  if (pthread_attr_getstacksize(&attributes, &size) == 0 && size < kLeast &&
      pthread_attr_setstacksize(&attributes, kLeast) == 0)
    pthread_setattr_default_np(&attributes);
  pthread_attr_destroy(&attributes);
}

int run_in_background(const Arguments& arguments, const daxfs::MountOptions& options) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return complain({fmt::format("pipe: {}", strerror(errno))});
  const pid_t child = fork();
  if (child < 0) return complain({fmt::format("fork: {}", strerror(errno))});
  if (child == 0) {
    close(pipe_ends[0]);
    setsid();
    if (chdir("/") != 0) return kExitFailed;
    const auto result = run(arguments, options, [&] {
      detach_from_terminal();
      const char yes = 1;
      if (write(pipe_ends[1], &yes, 1) != 1)
        spdlog::warn("nobody waits for the mount of {}", arguments.pool);
      close(pipe_ends[1]);
    });
    return result ? 0 : complain(result.error());
  }
  close(pipe_ends[1]);
  // Until it is mounted, a signal to the command interrupts the daemon, too.
  waited_for = child;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, interrupt_both);
  char ready = 0;
  ssize_t got = 0;
  do {
    got = read(pipe_ends[0], &ready, 1);
  } while (got < 0 && errno == EINTR);
  if (got == 1) {
    struct statvfs answer {};
    if (statvfs(arguments.mountpoint.c_str(), &answer) == 0) return 0;
    return complain({fmt::format("{}: mounted, but does not answer: {}", arguments.mountpoint,
                                 strerror(errno))});
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) return WEXITSTATUS(status);
  return complain({fmt::format("{}: the daemon ended before it was mounted", arguments.pool)});
}

}  // namespace

int main(int argc, char** argv) {
  daxfs::occupy_standard_streams();
  // spdlog's own default is standard output, which is for the one line that says what was mounted.
  spdlog::set_default_logger(spdlog::stderr_color_mt("stderr"));
  CLI::App app{
      "Mounts a daxfs pool: a file on a DAX filesystem, a device-DAX node, or any plain file.",
      "daxfs"};
  app.failure_message(daxfs::usage_message);
  Arguments arguments;
  std::vector<std::string> option_lists;
  app.add_option("POOL", arguments.pool, "The pool, as made by mkfs.daxfs")->required();
  app.add_option("MOUNTPOINT", arguments.mountpoint, "An empty directory")->required();
  app.add_option("-o", option_lists, "Mount options, see below")
      ->type_name("OPTIONS")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("-f", arguments.foreground, "Stay in the foreground; log to standard error");
  app.add_flag("-d", arguments.debug, "Like -f, and trace every FUSE message");
  app.set_version_flag("-V,--version", "daxfs " DAXFS_VERSION);
  app.footer(option_help());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  for (const std::string& list : option_lists) arguments.options += list + ",";

  const auto options = daxfs::parse_mount_options(arguments.options);
  if (!options) return complain(options.error(), kExitUsage);
  if (options->remount) {
    const auto done = daxfs::remount(arguments.pool, arguments.mountpoint, *options);
    return done ? 0 : complain(done.error());
  }
  const auto mountpoint = daxfs::check_mountpoint(arguments.mountpoint, options->nonempty);
  if (!mountpoint) return complain(mountpoint.error());
  arguments.mountpoint = *mountpoint;
  if (const auto where = daxfs::mounted_at(arguments.pool)) {
    if (arguments.foreground || arguments.debug) {
      return complain(
          {fmt::format("{}: already mounted on {}; umount that first", arguments.pool, *where)});
    }
    const auto done = daxfs::mount_again(arguments.pool, *where, *mountpoint, *options);
    if (!done) return complain(done.error());
    fmt::print("{0} on {1}: the mount on {2}, seen here as well\n", arguments.pool, *mountpoint,
               *where);
    return 0;
  }
  std::error_code ignored;
  enlarge_stacks();
  arguments.pool = std::filesystem::absolute(arguments.pool, ignored).string();

  if (arguments.foreground || arguments.debug) {
    const auto result = run(arguments, *options, [] {});
    return result ? 0 : complain(result.error());
  }
  return run_in_background(arguments, *options);
}
