// daxfs-run: programs as they are, beside plain clients of the same files. The programs are
// tests/run/run_cases.cpp and tests/run/run_ops.cpp.
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kSize = 65536;

struct RunMount : Mount {
  explicit RunMount(const std::string& options = "direct") : Mount({.options = options}) {
    write_file(file, std::string(kSize, 'f'));
  }
  // Under daxfs-run, with its own words before.
  Finished under(const std::vector<std::string>& words, std::vector<std::string> program) const {
    std::vector<std::string> command{tool("daxfs-run")};
    command.insert(command.end(), words.begin(), words.end());
    command.insert(command.end(), program.begin(), program.end());
    return run(command);
  }
  // One of run_cases.cpp; "" if all was as expected.
  std::string run_case(const std::string& name) const {
    write_file(file, std::string(kSize, 'f'));
    const Finished done = under({"--after=1"}, {tool("tests/run_cases"), name, path()});
    return done.code == 0 ? "" : done.err + " (exit status " + std::to_string(done.code) + ")";
  }
  const std::string file = path("f");
};

// The numbers behind these words in what --stats prints.
std::pair<long, long> counted(const std::string& text, const std::string& words) {
  const auto at = text.find(words);
  if (at == std::string::npos) return {0, 0};
  std::size_t used = 0;
  const std::string rest = text.substr(at + words.size());
  const long reads = std::stol(rest, &used);
  return {reads, std::stol(rest.substr(used))};
}

constexpr const char* kCopied = "copied, without a system call";
constexpr const char* kRefused = "files that are not attached";

}  // namespace

TEST_CASE_METHOD(RunMount, "daxfs-run: descriptors and positions are as a program expects") {
  CHECK(run_case("position") == "");
  CHECK(run_case("fork") == "");
  CHECK(run_case("exec") == "");
  CHECK(run_case("vfork") == "");
  CHECK(run_case("passed") == "");
  CHECK(run_case("lowest") == "");
}

TEST_CASE_METHOD(RunMount, "daxfs-run: who closes all descriptors leaves the library's alone") {
  CHECK(run_case("closefrom") == "");
  CHECK(run_case("again") == "");
  CHECK(run_case("unshare") == "");
  CHECK(run_case("few") == "");
}

TEST_CASE_METHOD(RunMount, "daxfs-run: appends, locks and errors are the kernel's") {
  CHECK(run_case("locks") == "");
  CHECK(run_case("errors") == "");
  CHECK(run_case("append") == "");
  CHECK(status_of(file).st_size == kSize + 15);
}

TEST_CASE_METHOD(RunMount, "daxfs-run: signal handlers and threads") {
  CHECK(run_case("threads") == "");
  CHECK(run_case("closed") == "");
  CHECK(run_case("signals") == "");
}

TEST_CASE_METHOD(RunMount, "daxfs-run: random calls do what they do on another filesystem") {
  const std::string beside_it = beside("oracle");
  REQUIRE(mkdir(beside_it.c_str(), 0755) == 0);
  const char* const given = std::getenv("DAXFS_RUN_SEED");
  const long first = given != nullptr ? std::atol(given) : 1;
  std::string stats;
  // Even seeds map files, also by descriptors that bypass the page cache.
  const bool can_map = shared_mapping_of_direct_handle() == 0;
  for (long seed = first; seed < first + 3; seed += can_map || seed % 2 == 0 ? 1 : 2) {
    const Finished done = under({"--after=1", "--stats"}, {tool("tests/run_ops"), path(), beside_it,
                                                           "1000", std::to_string(seed)});
    INFO(done.out);
    CHECK(done.code == 0);
    stats += done.err;
  }
  CHECK(counted(stats, kCopied).first > 50);
}

TEST_CASE_METHOD(RunMount, "daxfs-run: others see what a program has written, and the other way") {
  Process writer({tool("daxfs-run"), "--after=1", tool("tests/run_cases"), "beside", path()});
  REQUIRE(writer.says("written"));
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  CHECK(read_at(fd.get(), 5000, 7) == "program");
  write_at(fd.get(), 9000, "tester");
  REQUIRE(ftruncate(fd.get(), 9006) == 0);
  const Finished done = writer.finish();
  CHECK(done.code == 0);
  CHECK(done.err == "");
}

TEST_CASE_METHOD(RunMount, "daxfs-run: what went which way is counted") {
  const std::string counts = beside("counts");
  Finished done =
      under({"--after=1", "--stats=" + counts}, {tool("tests/run_cases"), "position", path()});
  CHECK(done.code == 0);
  CHECK(done.err == "");
  // What a detach of somebody else would have had closed is not copied.
  const auto copied = counted(read_file(counts), kCopied);
  const auto closed = counted(read_file(counts), "the file was closed for copies");
  CHECK(copied.first + closed.first == 5);
  CHECK(copied.second + closed.second == 2);
  done = under({"--stats"}, {"sh", "-c", "kill -TERM $$"});
  CHECK(done.code == 128 + SIGTERM);
  CHECK(contains(done.err, "daxfs-run: "));
  CHECK(under({}, {"sh", "-c", "exit 7"}).code == 7);
}

TEST_CASE_METHOD(RunMount, "daxfs-run: who may not write the pool goes by system calls") {
  REQUIRE(chmod(pool().c_str(), 0644) == 0);
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  // Beside the program, as run_as() has it.
  std::filesystem::create_directory(beside("tools"));
  std::filesystem::copy_file(tool("libdaxfs-run.so"), beside("tools/libdaxfs-run.so"));
  const Finished done = run_as(
      1234, {"daxfs-run", "--after=1", "--stats", "dd", "if=" + file, "of=/dev/null", "bs=4096"});
  INFO(done.err);
  CHECK(done.code == 0);
  CHECK(counted(done.err, kCopied) == std::pair(0L, 0L));
  CHECK(contains(done.err, "0 files attached, 1 could not be"));
}

TEST_CASE("daxfs-run: a mount without the option is as it was") {
  const RunMount mount("pin_policy=refuse");
  CHECK(mount.run_case("position") == "");
  const Finished done =
      mount.under({"--after=1", "--stats"}, {tool("tests/run_cases"), "position", mount.path()});
  CHECK(counted(done.err, kCopied) == std::pair(0L, 0L));
  CHECK(counted(done.err, kRefused).first > 0);
}

TEST_CASE("daxfs-run: says what is wrong with its words") {
  const std::string program = tool("daxfs-run");
  CHECK(run({program}).code == 2);
  CHECK(run({program, "--mmap=lease", "true"}).code == 2);
  CHECK(run({program, "--after=0", "true"}).code == 2);
  CHECK(run({program, "--statistics", "true"}).code == 2);
  const Finished missing = run({program, "/nonexistent/program"});
  CHECK(missing.code == 127);
  CHECK(contains(missing.err, "/nonexistent/program: No such file"));
  CHECK(run({program, "/dev/null"}).code == 126);
  CHECK(run({program, "--", "printf", "x"}).out == "x");
  CHECK(run({program, "echo", "--stats"}).out == "--stats\n");
}
