#include "blockmap/medium/pool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <mutex>
#include <thread>
#include <vector>

#include "blockmap/format.h"
#include "tests/unit/catch.h"
#include "tests/unit/skip.h"

namespace {

// What msync was asked for, and whether it is to fail.
struct SyncLog {
  std::mutex mutex;
  std::vector<std::pair<const std::byte*, std::size_t>> ranges;
  bool fail = false;

  bool covers(const std::byte* at) {
    const std::lock_guard lock(mutex);
    for (const auto& [start, length] : ranges) {
      if (at >= start && at < start + length) return true;
    }
    return false;
  }
  std::size_t clear() {
    const std::lock_guard lock(mutex);
    const std::size_t count = ranges.size();
    ranges.clear();
    return count;
  }
};

SyncLog& sync_log() {
  static SyncLog log;
  return log;
}

}  // namespace

// Takes the place of the C library's, for this test program.
extern "C" int msync(void* address, std::size_t length, int flags) {
  {
    const std::lock_guard lock(sync_log().mutex);
    sync_log().ranges.emplace_back(static_cast<const std::byte*>(address), length);
    if (sync_log().fail) {
      errno = EIO;
      return -1;
    }
  }
  return static_cast<int>(::syscall(SYS_msync, address, length, flags));
}

using namespace daxfs;

namespace {

namespace fs = std::filesystem;

constexpr char kForce[] = "PMEM2_FORCE_GRANULARITY";
constexpr std::uint64_t kSize = 8ull << 20;

class Directory {
 public:
  explicit Directory(const std::string& parent) : path_(parent + "/daxfs-pool-test-XXXXXX") {
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
    path_ = fs::canonical(path_).string();
  }
  ~Directory() { fs::remove_all(path_); }
  std::string file(const std::string& name, std::uint64_t size) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path).flush();
    fs::resize_file(path, size);
    return path;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Problem refused(const std::string& path, Pool::OpenOptions options = {}) {
  auto pool = Pool::open(path, options);
  INFO(path);
  REQUIRE_FALSE(pool);
  INFO(pool.error().text);
  CHECK(pool.error().text.starts_with("pool "));
  CHECK(pool.error().text.find('\n') == std::string::npos);
  return pool.error();
}

void check_refused(const std::string& path, int code, std::string_view reason) {
  const Problem problem = refused(path);
  INFO(problem.text);
  CHECK(problem.code == code);
  CHECK(problem.text.find(reason) != std::string::npos);
  CHECK(problem.text.find(path.substr(path.rfind('/') + 1)) != std::string::npos);
}

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto raw = std::as_bytes(std::span(text.data(), text.size()));
  return {raw.begin(), raw.end()};
}

// Sets an environment variable for a while; nullptr unsets it.
class Environment {
 public:
  explicit Environment(const char* value) {
    if (const char* old = std::getenv(kForce)) old_ = old;
    value == nullptr ? ::unsetenv(kForce) : ::setenv(kForce, value, 1);
  }
  ~Environment() { old_.empty() ? ::unsetenv(kForce) : ::setenv(kForce, old_.c_str(), 1); }

 private:
  std::string old_;
};

// A process that holds the pool until told to let go.
class Holder {
 public:
  // hand_over: a child of it, which has inherited the lock, stays, and it exits.
  explicit Holder(const std::string& path, bool hand_over = false) {
    int ready[2];
    int quit[2];
    REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
    REQUIRE(::pipe2(quit, O_CLOEXEC) == 0);
    child_ = ::fork();
    if (child_ == 0) {
      ::close(quit[1]);
      auto pool = Pool::open(path, {});
      if (hand_over && ::fork() != 0) ::_exit(0);
      const pid_t self = pool ? ::getpid() : -1;
      char byte;
      const bool ok =
          ::write(ready[1], &self, sizeof self) == sizeof self && ::read(quit[0], &byte, 1) >= 0;
      ::_exit(ok ? 0 : 1);
    }
    ::close(ready[1]);
    ::close(quit[0]);
    if (hand_over) ::waitpid(child_, nullptr, 0);
    handed_over_ = hand_over;
    REQUIRE(::read(ready[0], &pid_, sizeof pid_) == sizeof pid_);
    ::close(ready[0]);
    REQUIRE(pid_ > 0);
    quit_ = quit[1];
  }
  ~Holder() { release(); }
  void release() {
    if (quit_ < 0) return;
    ::close(quit_);
    quit_ = -1;
    if (!handed_over_) ::waitpid(child_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t child_ = -1;
  pid_t pid_ = -1;
  int quit_ = -1;
  bool handed_over_ = false;
};

std::atomic<int> waits = 0;

}  // namespace

TEST_CASE("a pool file is mapped, changed and found again", "[pool]") {
  const std::string parent = GENERATE(as<std::string>{}, "/tmp", "/dev/shm");
  const char* const force =
      GENERATE(static_cast<const char*>(nullptr), "PAGE", "CACHE_LINE", "BYTE");
  INFO(parent << " " << (force == nullptr ? "as it is" : force));
  const Environment environment(force);
  const Directory directory(parent);
  const std::string path = directory.file("pool", kSize);

  std::vector<std::byte> data(10'000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7 + 1);
  std::vector<std::byte> expected(kSize);
  const auto put = [&](std::uint64_t at, std::span<const std::byte> what) {
    std::copy(what.begin(), what.end(), expected.begin() + static_cast<std::ptrdiff_t>(at));
  };
  {
    auto pool = Pool::open(path, {});
    REQUIRE(pool);
    Medium& medium = (*pool)->medium();
    CHECK(medium.size().value == kSize);
    CHECK(medium.blocks().value == kSize / kBlockSize);
    CHECK((*pool)->path() == path);
    CHECK((*pool)->map_alignment() == kBlockSize);
    CHECK_FALSE((*pool)->is_device_dax());
    if (force != nullptr) {
      CHECK(to_string((*pool)->granularity()) == (force[0] == 'P'   ? "page"
                                                  : force[0] == 'C' ? "cache_line"
                                                                    : "byte"));
    }
    medium.write(PoolOffset(4095), data);
    put(4095, data);
    medium.write(PoolOffset(kSize - 5), std::span(data).first(5));
    put(kSize - 5, std::span(data).first(5));
    medium.store(PoolOffset(77), std::span(data).first(33));
    put(77, std::span(data).first(33));
    medium.store_u64(PoolOffset(1 << 20), 0x0102030405060708);
    const std::uint64_t word = 0x0102030405060708;
    put(1 << 20, std::as_bytes(std::span(&word, 1)));
    medium.fence();
    medium.zero(PoolOffset(5000), ByteCount(2000));
    std::fill_n(expected.begin() + 5000, 2000, std::byte{0});
    medium.write(PoolOffset(0), {});
    medium.store(PoolOffset(kSize), {});
    medium.zero(PoolOffset(kSize), ByteCount(0));
    medium.fence();
    CHECK_FALSE(medium.failed());
    CHECK(medium.load<std::uint64_t>(PoolOffset(1 << 20)) == word);
  }
  CHECK(read_file(path) == expected);
  auto pool = Pool::open(path, {.read_only = true});
  REQUIRE(pool);
  CHECK(std::memcmp((*pool)->medium().at(PoolOffset(0)), expected.data(), kSize) == 0);
}

TEST_CASE("tmpfs is emulated persistent memory, and says so", "[pool]") {
  const Directory directory("/dev/shm");
  struct statfs st {};
  REQUIRE(::statfs(directory.path().c_str(), &st) == 0);
  if (st.f_type != 0x01021994) {
    test::skip_test("/dev/shm is no tmpfs");
  }
  const std::string path = directory.file("pool", kSize);
  {
    const Environment environment(nullptr);
    auto pool = Pool::open(path, {});
    REQUIRE(pool);
    CHECK((*pool)->granularity() == Granularity::cache_line);
    CHECK_FALSE((*pool)->is_dax());
    CHECK(std::getenv(kForce) == nullptr);
  }
  {
    const Environment environment("PAGE");
    auto pool = Pool::open(path, {});
    REQUIRE(pool);
    CHECK((*pool)->granularity() == Granularity::page);
    CHECK(std::string(std::getenv(kForce)) == "PAGE");
  }
}

TEST_CASE("only whole blocks of a pool are used", "[pool]") {
  const Directory directory("/tmp");
  auto pool = Pool::open(directory.file("pool", kSize + 4095), {});
  REQUIRE(pool);
  CHECK((*pool)->medium().size().value == kSize);
}

TEST_CASE("what cannot be a pool is refused with a reason", "[pool]") {
  const Directory directory("/tmp");
  const std::string at = directory.path() + "/";
  check_refused(at + "missing", ENOENT, "does not exist");
  check_refused(directory.path(), EISDIR, "is a directory");
  check_refused(directory.file("empty", 0), EINVAL, "is empty");
  check_refused(directory.file("small", pmem::kMinPoolBytes - 1), EINVAL, "too small");
  check_refused(directory.file("file", kSize) + "/below", ENOTDIR, "not a directory");
  check_refused("/dev/null", ENODEV, "not device DAX");

  REQUIRE(::mkfifo((at + "pipe").c_str(), 0600) == 0);
  check_refused(at + "pipe", EINVAL, "named pipe");

  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (at + "socket").copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  ::close(fd);
  check_refused(at + "socket", EINVAL, "socket");

  fs::create_symlink("nowhere", at + "dangling");
  check_refused(at + "dangling", ENOENT, "does not exist");
  fs::create_symlink("loop", at + "loop");
  check_refused(at + "loop", ELOOP, "cannot be opened");

  fs::create_symlink("file", at + "link");
  auto pool = Pool::open(at + "link", {});
  REQUIRE(pool);
  CHECK((*pool)->path() == at + "file");
}

TEST_CASE("a block device is refused with the way out", "[pool]") {
  for (const auto& entry : fs::directory_iterator("/dev")) {
    std::error_code error;
    if (!entry.is_block_file(error)) continue;
    check_refused(fs::canonical(entry.path()), ENOTBLK, "-o dax");
    return;
  }
  test::skip_test("no block device in /dev");
}

TEST_CASE("a pool that its user may not open is refused", "[pool]") {
  const Directory directory("/tmp");
  const std::string path = directory.file("pool", kSize);
  fs::permissions(path, fs::perms::none);
  fs::permissions(directory.path(), fs::perms::all);
  const bool root = ::geteuid() == 0;
  if (root && ::seteuid(65534) != 0) {
    test::skip_test("cannot become another user");
  }
  auto pool = Pool::open(path, {});
  if (root) REQUIRE(::seteuid(0) == 0);
  REQUIRE_FALSE(pool);
  CHECK(pool.error().code == EACCES);
  CHECK(pool.error().text.find("permission denied") != std::string::npos);
}

TEST_CASE("a pool has one user at a time", "[pool][lock]") {
  const Directory directory("/tmp");
  const std::string path = directory.file("pool", kSize);

  SECTION("in this process") {
    auto first = Pool::open(path, {});
    REQUIRE(first);
    CHECK(refused(path).code == EBUSY);
    CHECK(refused(path, {.read_only = true}).code == EBUSY);
    first->reset();
    CHECK(Pool::open(path, {}));
  }
  SECTION("readers count") {
    auto first = Pool::open(path, {.read_only = true});
    REQUIRE(first);
    CHECK(refused(path).code == EBUSY);
  }
  SECTION("another process is named") {
    const bool hand_over = GENERATE(false, true);
    Holder holder(path, hand_over);
    const Problem problem = refused(path);
    CHECK(problem.code == EBUSY);
    INFO(problem.text);
    CHECK(problem.text.find("process " + std::to_string(holder.pid()) + " (") != std::string::npos);
    CHECK(problem.text.find("waited") == std::string::npos);
  }
  SECTION("waiting for it to end") {
    waits = 0;
    Holder holder(path);
    Pool::OpenOptions options;
    options.lock_timeout_seconds = 30;
    options.on_wait = [](const std::string&) { ++waits; };
    std::jthread later([&] {
      while (waits == 0) std::this_thread::yield();
      holder.release();
    });
    CHECK(Pool::open(path, options));
    CHECK(waits == 1);
  }
  SECTION("waiting in vain") {
    waits = 0;
    Holder holder(path);
    Pool::OpenOptions options;
    options.lock_timeout_seconds = 0.1;
    options.on_wait = [](const std::string&) { ++waits; };
    const auto start = std::chrono::steady_clock::now();
    const Problem problem = refused(path, options);
    CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(100));
    CHECK(problem.text.find("waited 0.1 s") != std::string::npos);
    CHECK(waits == 1);
  }
}

TEST_CASE("without DAX a fence syncs what its thread changed, in each medium", "[pool][msync]") {
  const Environment environment("PAGE");
  const Directory directory("/tmp");
  auto a = Pool::open(directory.file("a", kSize), {});
  auto b = Pool::open(directory.file("b", kSize), {});
  REQUIRE(a);
  REQUIRE(b);
  Medium& first = (*a)->medium();
  Medium& second = (*b)->medium();
  SyncLog& log = sync_log();
  log.clear();

  // One thread, two media.
  first.store_u64(PoolOffset(0), 1);
  second.store_u64(PoolOffset(4096), 1);
  first.zero(PoolOffset(4 << 20), ByteCount(8192));
  second.fence();
  CHECK(log.covers(second.at(PoolOffset(4096))));
  CHECK_FALSE(log.covers(first.at(PoolOffset(0))));
  first.fence();
  CHECK(log.covers(first.at(PoolOffset(0))));
  CHECK(log.covers(first.at(PoolOffset((4 << 20) + 8191))));
  CHECK(log.clear() == 3);
  first.fence();
  second.fence();
  CHECK(log.clear() == 0);

  // Neighbours become one call.
  for (std::uint64_t i = 0; i < 20; ++i) first.store_u64(PoolOffset((i * 7 % 20) * 4096), 1);
  first.fence();
  CHECK(log.clear() == 1);

  // A fence is for its own thread.
  std::thread other([&] { first.store_u64(PoolOffset(1 << 20), 1); });
  other.join();
  first.store_u64(PoolOffset(6 << 20), 1);
  first.fence();
  CHECK(log.covers(first.at(PoolOffset(6 << 20))));
  CHECK_FALSE(log.covers(first.at(PoolOffset(1 << 20))));
  log.clear();

  // Threads side by side.
  std::atomic<int> missed = 0;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < 50; ++i) {
          Medium& medium = i % 2 == 0 ? first : second;
          const PoolOffset at((t * 50 + i) * 8192);
          medium.store_u64(at, i + 1);
          medium.fence();
          if (!log.covers(medium.at(at))) ++missed;
        }
      });
    }
  }
  CHECK(missed == 0);
}

TEST_CASE("a failed msync is remembered", "[pool][msync]") {
  const Environment environment("PAGE");
  const Directory directory("/tmp");
  auto pool = Pool::open(directory.file("pool", kSize), {});
  REQUIRE(pool);
  Medium& medium = (*pool)->medium();
  medium.store_u64(PoolOffset(0), 1);
  sync_log().fail = true;
  medium.fence();
  sync_log().fail = false;
  CHECK(medium.failed());
  medium.store_u64(PoolOffset(0), 2);
  medium.fence();
  CHECK(medium.failed());
}
