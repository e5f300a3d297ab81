#include "tests/mount/direct_run.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "base/unique_fd.h"
#include "client/daxfs.h"

namespace daxfs::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kFiles = 3;
constexpr std::uint64_t kBlocksOfFile = 256;
constexpr std::uint64_t kThief = 1000;  // whose the files are that take what becomes free

// All of a block: whose it is, again and again, with a count that writers change.
struct Line {
  std::uint64_t owner;
  std::uint64_t block;
  std::uint64_t count;
  std::uint64_t sum;
  std::uint64_t rest[4];
};
static_assert(sizeof(Line) == 64);
// As O_DIRECT wants it.
struct alignas(kBlock) Block : std::array<Line, kBlock / sizeof(Line)> {};

std::uint64_t sum_of(const Line& line) {
  return line.owner * 0x9E3779B97F4A7C15u + line.block * 31 + 1;
}

Block block_of(std::uint64_t owner, std::uint64_t number, std::uint64_t count) {
  Block block;
  for (Line& line : block) {
    line = {.owner = owner, .block = number, .count = count, .sum = 0, .rest = {}};
    line.sum = sum_of(line);
    for (std::uint64_t& word : line.rest) word = line.sum;
  }
  return block;
}

// Shared by all processes of a run.
struct Shared {
  std::atomic<std::uint64_t> direct;
  std::atomic<std::uint64_t> by_kernel;
  std::atomic<std::uint64_t> foreign;
  std::atomic<bool> over;
  std::atomic<bool> told;
  bool daemon_dies;
  char first[256];
};

// Others have taken all space; or there is no daemon just now, or its mount is another one.
bool is_bearable(const Shared& shared, int error) {
  constexpr std::array kWithoutDaemon{ENOTCONN, ECONNABORTED, ENOENT, ENODEV, ENOTTY,
                                      ESTALE,   EIO,          EINTR,  EBADF};
  return error == 0 || error == ENOSPC ||
         (shared.daemon_dies &&
          std::find(kWithoutDaemon.begin(), kWithoutDaemon.end(), error) != kWithoutDaemon.end());
}

// Fails where nothing is mounted: what lies below is nobody's business.
UniqueFd open_inside(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags, 0644));
  constexpr auto kFuse = 0x65735546;
  struct statfs status {};
  if (fd && (fstatfs(fd.get(), &status) != 0 || status.f_type != kFuse)) {
    if ((flags & O_CREAT) != 0) unlink(path.c_str());
    fd = UniqueFd();
    errno = ENODEV;
  }
  return fd;
}

void note_foreign(Shared& shared, const char* where, std::uint64_t owner, std::uint64_t number,
                  const Line& seen) {
  shared.foreign += 1;
  if (shared.told.exchange(true)) return;
  std::snprintf(shared.first, sizeof shared.first,
                "%s: block %llu of file %llu says: block %llu of file %llu", where,
                static_cast<unsigned long long>(number), static_cast<unsigned long long>(owner),
                static_cast<unsigned long long>(seen.block),
                static_cast<unsigned long long>(seen.owner));
}

// Zeroes, or the block's own lines; which of its writers' does not matter. (A line is written in
// pieces, so only whose it is can be relied on.)
void check(Shared& shared, const char* where, const Block& block, std::uint64_t owner,
           std::uint64_t number) {
  for (const Line& line : block) {
    const bool own =
        (line.owner == owner || line.owner == 0) && (line.block == number || line.block == 0);
    if (!own) note_foreign(shared, where, owner, number, line);
  }
}

std::string path_of(const std::string& mount, std::uint64_t file) {
  return mount + "/file" + std::to_string(file);
}

// The same piece again and again, so that most of the time is spent in copies.
constexpr std::uint64_t kPiece = 16;
constexpr int kTimes = 15;

int write_some(daxfs_direct* direct, std::uint64_t file, std::mt19937& random,
               std::uint64_t count) {
  static std::array<Block, kPiece> piece;
  const std::uint64_t first = random() % (kBlocksOfFile - kPiece + 1);
  for (std::uint64_t i = 0; i < kPiece; ++i) piece[i] = block_of(file + 1, first + i, count);
  for (int i = 0; i < kTimes; ++i) {
    const std::size_t length = (i % 2 == 0 ? kPiece : 1) * kBlock;
    if (daxfs_pwrite(direct, piece.data(), length, first * kBlock) < 0) return errno;
  }
  return 0;
}

int read_some(Shared& shared, daxfs_direct* direct, std::uint64_t file, std::mt19937& random) {
  for (int i = 0; i < kTimes; ++i) {
    const std::uint64_t number = random() % kBlocksOfFile;
    Block block{};
    if (daxfs_pread(direct, &block, sizeof block, number * kBlock) < 0) return errno;
    check(shared, "a client", block, file + 1, number);
  }
  return 0;
}

// Notes what has been done since the last call.
void note_counts(Shared& shared, const daxfs_direct* direct, daxfs_counts& known) {
  daxfs_counts now;
  daxfs_direct_counts(direct, &now);
  shared.direct += now.direct - known.direct;
  shared.by_kernel += now.by_kernel - known.by_kernel;
  known = now;
}

// Reads or writes until it is over. Attaches anew when the file has been replaced. Where others
// have taken all space, neither a doorbell nor a hole finds any: it tries again.
int client(const std::string& mount, Shared& shared, bool writes, unsigned seed) {
  std::mt19937 random(seed);
  std::uint64_t count = 0;
  while (!shared.over) {
    const std::uint64_t file = random() % kFiles;
    UniqueFd fd = open_inside(path_of(mount, file), O_RDWR);
    if (!fd) continue;
    daxfs_direct* const direct = daxfs_attach(fd.get());
    const int refused = errno;
    fd = UniqueFd();
    if (direct == nullptr && is_bearable(shared, refused)) continue;
    if (direct == nullptr) return refused;
    daxfs_counts known{};
    for (int i = 0; i < 200 && !shared.over; ++i) {
      const int error = writes ? write_some(direct, file, random, ++count)
                               : read_some(shared, direct, file, random);
      note_counts(shared, direct, known);
      if (!is_bearable(shared, error)) return error;
      if (error == ENOTCONN) break;
    }
    daxfs_detach(direct);
  }
  return 0;
}

// Takes all space that has become free, and looks later whether it has stayed its own.
class Thief {
 public:
  Thief(const std::string& mount, Shared& shared) : path_(mount + "/thief"), shared_(shared) {}

  void take() {
    ++owner_;
    fd_ = open_inside(path_, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
    blocks_ = 0;
    for (bool more = true; more;) {
      for (std::uint64_t i = 0; i < chunk_.size(); ++i)
        chunk_[i] = block_of(owner_, blocks_ + i, 0);
      const ssize_t wrote = pwrite(fd_.get(), chunk_.data(), chunk_.size() * kBlock,
                                   static_cast<off_t>(blocks_ * kBlock));
      more = wrote == static_cast<ssize_t>(chunk_.size() * kBlock);
      if (wrote > 0) blocks_ += static_cast<std::uint64_t>(wrote) / kBlock;
    }
  }
  void give_back() {
    if (shared_.daemon_dies) fd_ = open_inside(path_, O_RDONLY | O_DIRECT);
    for (std::uint64_t first = 0; first < blocks_; first += chunk_.size()) {
      const ssize_t got = pread(fd_.get(), chunk_.data(), chunk_.size() * kBlock,
                                static_cast<off_t>(first * kBlock));
      const std::uint64_t here = got > 0 ? static_cast<std::uint64_t>(got) / kBlock : 0;
      for (std::uint64_t i = 0; i < here && first + i < blocks_; ++i)
        check(shared_, "who took free space", chunk_[i], owner_, first + i);
    }
    fd_ = UniqueFd();
    unlink(path_.c_str());
  }

 private:
  const std::string path_;
  Shared& shared_;
  UniqueFd fd_;
  std::uint64_t owner_ = kThief;
  std::uint64_t blocks_ = 0;
  std::vector<Block> chunk_ = std::vector<Block>(64);
};

// Whether there is such a file now, with nobody else's content.
bool make(const std::string& path, std::uint64_t owner) {
  const UniqueFd fd = open_inside(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
  if (!fd) return false;
  std::vector<Block> all(kBlocksOfFile);
  for (std::uint64_t number = 0; number < kBlocksOfFile; ++number)
    all[number] = block_of(owner, number, 0);
  // Short where there is no space: others have it.
  static_cast<void>(!pwrite(fd.get(), all.data(), kBlocksOfFile * kBlock, 0));
  return true;
}

// One detach; its errno.
int detach(const std::string& mount, std::mt19937& random) {
  const std::uint64_t file = random() % kFiles;
  const std::string path = path_of(mount, file);
  switch (random() % 4) {
    case 0: {
      const std::uint64_t first = random() % kBlocksOfFile;
      const UniqueFd fd = open_inside(path, O_RDWR);
      const auto length = static_cast<off_t>((1 + random() % 64) * kBlock);
      return fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(first * kBlock), length) == 0
                 ? 0
                 : errno;
    }
    case 1:
      return truncate(path.c_str(), static_cast<off_t>(random() % (kBlocksOfFile * kBlock))) == 0
                 ? 0
                 : errno;
    case 2: {
      const std::string fresh = mount + "/fresh";
      if (!make(fresh, file + 1)) return errno;
      return rename(fresh.c_str(), path.c_str()) == 0 ? 0 : errno;
    }
    default: {
      const UniqueFd fd = open_inside(path, O_RDWR | O_TRUNC);
      const int error = fd.get() >= 0 ? 0 : errno;
      if (error == 0) make(path, file + 1);
      return error;
    }
  }
}

// A client as a process. Not ended by itself: the run ends it.
pid_t start(const std::string& mount, Shared& shared, bool writes, unsigned seed) {
  const pid_t child = fork();
  if (child != 0) return child;
  _exit(client(mount, shared, writes, seed));
}

int end(pid_t process) {
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

DirectFound run_direct(const std::string& mount, const DirectRun& run) {
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory to share");
  auto& shared = *new (memory) Shared{};
  shared.daemon_dies = run.daemon_dies;
  std::mt19937 random(static_cast<unsigned>(run.seconds * 1000) + 7);
  for (std::uint64_t file = 0; file < kFiles; ++file) make(path_of(mount, file), file + 1);

  DirectFound found;
  std::vector<pid_t> clients;
  const auto client_of = [&](std::size_t i) {
    return start(mount, shared, i >= static_cast<std::size_t>(run.readers),
                 static_cast<unsigned>(random()));
  };
  const auto all = static_cast<std::size_t>(run.readers + run.writers);
  for (std::size_t i = 0; i < all; ++i) clients.push_back(client_of(i));

  Thief thief(mount, shared);
  std::vector<int> ends;
  const auto until = Clock::now() + std::chrono::duration<double>(run.seconds);
  const auto note = [&](int error) {
    ++(error == 0 ? found.detaches : found.refused);
    if (error != ETXTBSY && error != EINTR && !is_bearable(shared, error)) ends.push_back(error);
  };
  for (int round = 0; Clock::now() < until; ++round) {
    pid_t& one = clients[random() % all];
    const bool stopped = run.stop_clients && round % 2 == 0;
    if (stopped) kill(one, SIGSTOP);
    for (int i = 0; i < 4; ++i) note(detach(mount, random));
    const bool taken = round % 4 == 0;
    if (taken) {
      // Whatever the stopped one has been copying into.
      for (std::uint64_t file = 0; file < kFiles && round % 8 == 0; ++file)
        note(truncate(path_of(mount, file).c_str(), 0) == 0 ? 0 : errno);
      thief.take();
    }
    if (stopped) {
      kill(one, SIGCONT);
      usleep(2000);
    }
    if (taken) thief.give_back();
    if (run.kill_clients && round % 5 == 4) {
      kill(one, SIGKILL);
      end(one);
      one = client_of(static_cast<std::size_t>(&one - clients.data()));
    }
  }
  shared.over = true;
  for (const pid_t one : clients) ends.push_back(end(one));
  for (std::uint64_t file = 0; file < kFiles; ++file) unlink(path_of(mount, file).c_str());
  unlink((mount + "/fresh").c_str());
  found.direct = shared.direct;
  found.by_kernel = shared.by_kernel;
  found.foreign = shared.foreign;
  found.first = shared.first;
  munmap(memory, sizeof(Shared));
  for (const int error : ends) {
    if (error != 0 && error != ENOSPC)
      throw std::runtime_error("a client or a detach ended with " + std::to_string(error));
  }
  return found;
}

}  // namespace daxfs::test
