// daxfs-run: runs a program with a library before libc's functions, which lets it read and write
// files of daxfs without system calls (docs/direct.md).
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tools/run/report.h"
#include "tools/run/settings.h"
#include "tools/standard_streams.h"
#include "tools/usage.h"

namespace daxfs::run {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kCannotExecute = 126;
constexpr int kNotFound = 127;

constexpr const char* kAbout =
    "Runs PROGRAM so that it reads and writes files of daxfs mounts without a system call for each "
    "operation.\n"
    "Only files on mounts with the option `direct` are, and only if the caller may write to the "
    "pool; all else\n"
    "is as without daxfs-run. The programs that it starts inherit it. Experimental.";
constexpr const char* kFooter =
    "daxfs-run's own options stand before PROGRAM; their values are given with `=`.\n"
    "Static programs, set-user-id programs, and what a program reads and writes through stdio "
    "(fopen) go by system call.\n"
    "Exit status: the program's; 1 daxfs-run failed, 2 usage, 126 PROGRAM cannot be executed, 127 "
    "it is not there.";

struct Options {
  std::string stats;  // "-": to standard error
  std::string mmap = "never";
  std::string append = "sync";
  unsigned after = kAfter;
  std::string program;
  std::vector<std::string> arguments;
};

// Where daxfs-run's own words end: with the program.
int own_words(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--") == 0) return std::min(i + 2, argc);
    if (argv[i][0] != '-' || argv[i][1] == 0) return i + 1;
  }
  return argc;
}

std::optional<int> parse(int argc, char** argv, Options& options) {
  CLI::App app(kAbout, "daxfs-run");
  app.footer(kFooter);
  app.failure_message(usage_message);
  app.set_version_flag("--version", std::string("daxfs-run ") + DAXFS_VERSION);
  app.add_option("--stats", options.stats,
                 "Print at the end how many reads and writes went which way; --stats=FILE: into "
                 "FILE")
      ->option_text("[FILE]");
  app.add_option("--mmap", options.mmap,
                 "What mmap(2) of a file does: never (as without daxfs-run)")
      ->check(CLI::IsMember({"never"}))
      ->capture_default_str();
  app.add_option("--append", options.append, "When appended bytes are in the file: sync (at once)")
      ->check(CLI::IsMember({"sync"}))
      ->capture_default_str();
  app.add_option("--after", options.after,
                 "Attach a file that is only read or only written at its so-manieth read or write")
      ->check(check_number(1, kMostAfter))
      ->capture_default_str();
  app.add_option("PROGRAM", options.program, "The program, as a shell would find it")->required();
  app.add_option("ARGUMENTS", options.arguments, "Its arguments");
  // Its value is given with `=` or not at all: what follows is the program.
  std::vector<std::string> words(argv, argv + own_words(argc, argv));
  std::ranges::replace(words, std::string("--stats"), std::string("--stats=-"));
  std::ranges::reverse(words);
  words.pop_back();
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  return std::nullopt;
}

std::optional<std::string> library_path() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const char* const beside : {"", DAXFS_RUN_LIBRARY_DIR}) {
    const auto path = (self.parent_path() / beside / kLibrary).lexically_normal();
    if (access(path.c_str(), R_OK) == 0) return path.string();
  }
  return std::nullopt;
}

// LD_PRELOAD with the library before what is there.
bool preload() {
  const auto path = library_path();
  if (!path) {
    fmt::print(stderr, "daxfs-run: {} is not there: install daxfs completely\n", kLibrary);
    return false;
  }
  if (path->find_first_of(" :") != std::string::npos) {
    fmt::print(stderr, "daxfs-run: {}: a path with a space or a colon cannot be preloaded\n",
               *path);
    return false;
  }
  const char* const others = std::getenv("LD_PRELOAD");
  const std::string all = others != nullptr && *others != 0 ? *path + ":" + others : *path;
  setenv("LD_PRELOAD", all.c_str(), 1);
  return true;
}

[[noreturn]] void execute(char** words) {
  execvp(words[0], words);
  const int error = errno;
  fmt::print(stderr, "daxfs-run: {}: {}\n", words[0], std::strerror(error));
  _exit(error == ENOENT ? kNotFound : kCannotExecute);
}

volatile std::sig_atomic_t child_to_tell;

// Signals that somebody sends to daxfs-run are meant for the program.
void pass_on(int signal) {
  if (child_to_tell > 0) kill(static_cast<pid_t>(child_to_tell), signal);
}

// As if it had been this process: a signal that ended it ends this one, too.
int end_as(int status) {
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  const int signal = WTERMSIG(status);
  std::signal(signal, SIG_DFL);
  raise(signal);
  return 128 + signal;
}

int run_and_report(const Options& options, char** words) {
  std::string path = std::filesystem::temp_directory_path() / "daxfs-run-XXXXXX";
  const UniqueFd file(mkostemp(path.data(), O_CLOEXEC));
  void* const at =
      file && ftruncate(file.get(), sizeof(Counters)) == 0
          ? mmap(nullptr, sizeof(Counters), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0)
          : MAP_FAILED;
  if (at == MAP_FAILED) {
    fmt::print(stderr, "daxfs-run: {}: {}: no place for --stats; set TMPDIR\n", path,
               std::strerror(errno));
    if (file) unlink(path.c_str());
    return kFailed;
  }
  setenv(kStatsVariable, path.c_str(), 1);
  const pid_t child = fork();
  if (child == 0) execute(words);
  child_to_tell = static_cast<int>(child);
  for (const int signal : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) std::signal(signal, pass_on);
  // From a terminal they come to both.
  for (const int signal : {SIGINT, SIGQUIT}) std::signal(signal, SIG_IGN);
  int status = 0;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  unlink(path.c_str());
  if (child < 0) {
    fmt::print(stderr, "daxfs-run: no process for {}: {}\n", words[0], std::strerror(errno));
    return kFailed;
  }
  const std::string text = report(*static_cast<const Counters*>(at));
  std::FILE* const out = options.stats == "-" ? stderr : std::fopen(options.stats.c_str(), "we");
  if (out == nullptr || std::fputs(text.c_str(), out) < 0 || std::fflush(out) != 0)
    fmt::print(stderr, "daxfs-run: {}: {}\n{}", options.stats, std::strerror(errno), text);
  return end_as(status);
}

int run(int argc, char** argv) {
  Options options;
  if (const auto status = parse(argc, argv, options)) return *status;
  if (!preload()) return kFailed;
  setenv(kAfterVariable, std::to_string(options.after).c_str(), 1);
  unsetenv(kStatsVariable);  // daxfs-run in daxfs-run
  char** const words = argv + own_words(argc, argv) - 1;
  if (!options.stats.empty()) return run_and_report(options, words);
  execute(words);
}

}  // namespace
}  // namespace daxfs::run

int main(int argc, char** argv) {
  daxfs::occupy_standard_streams();
  return daxfs::run::run(argc, argv);
}
