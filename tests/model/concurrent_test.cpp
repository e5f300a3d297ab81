// Many threads on a small shared tree: names, data, space and pins at once.
//
// Every file block that is written says whose it is, so readers and holders notice bytes of
// somebody else. What only the application could order (reads and in-place writes of the same
// bytes) the test orders itself, with a lock for each file's content; everything else is left to
// race.
//
// DAXFS_MODEL_THREADS_OPS: operations for each thread; DAXFS_MODEL_SEED: other random numbers.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "blockmap/volume/check.h"
#include "client/daxfs.h"
#include "src/scrub.h"
#include "tests/model/described_blocks.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

constexpr std::uint64_t kPoolBytes = 12 << 20;
constexpr std::uint64_t kFileBlocks = 48;
constexpr std::size_t kThreads = 6;

struct Findings {
  std::atomic<std::uint64_t> foreign{0};  // a holder saw bytes of another file under its pin
  std::atomic<std::uint64_t> held_blocks{0};
  std::atomic<std::uint64_t> detached{0};
  std::atomic<std::uint64_t> cancelled{0};
  std::atomic<std::uint64_t> scrubs{0};
  std::mutex mutex;  // protects wrong
  std::vector<std::string> wrong;

  void report(const std::string& text) {
    const std::lock_guard guard(mutex);
    if (wrong.size() < 20) wrong.push_back(text);
  }
};

// One per file's content, shared by files whose numbers fall together.
class ContentLocks {
 public:
  std::shared_mutex& of(InodeNumber inode) { return locks_[inode.value % locks_.size()]; }

 private:
  std::array<std::shared_mutex, 61> locks_;
};

class Worker {
 public:
  Worker(Filesystem& fs, ContentLocks& locks, Findings& findings, std::uint64_t seed)
      : fs_(fs), locks_(locks), findings_(findings), random_(seed) {}

  void run(std::size_t operations) {
    for (std::size_t i = 0; i < operations; ++i) {
      step();
      if (i % 4 == 0) look_through_pins();
    }
    while (!files_.empty()) close();
  }

 private:
  struct Pin {
    PinId id;
    std::uint64_t first_block;
  };
  struct File {
    OpenFileRef file;
    BlockIdentity identity;  // of its block 0
    std::vector<Pin> pins;

    InodeNumber inode() const { return InodeNumber{identity.inode}; }
    BlockIdentity block(std::uint64_t number) const {
      return {identity.inode, identity.generation, number};
    }
  };

  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  std::string any_name() { return std::string(1, static_cast<char>('a' + below(6))); }

  // The root or one of two directories that always exist, or one that may come and go.
  InodeNumber any_directory() {
    const std::uint64_t kind = below(4);
    if (kind == 0) return kRootInode;
    const auto found = fs_.names().lookup(kRootInode, kind == 3 ? "d" : kind == 2 ? "B" : "A");
    if (!found) return kRootInode;
    fs_.names().forget(found->inode, 1);
    return S_ISDIR(found->attributes.st_mode) ? found->inode : kRootInode;
  }

  // The errors that may come of what others do at the same time.
  void expect(const char* what, int code, std::initializer_list<int> allowed) {
    if (code == 0 || std::ranges::find(allowed, code) != allowed.end()) return;
    findings_.report(fmt::format("{}: {}", what, strerrorname_np(code)));
  }
  template <class T>
  static int code_of(const std::expected<T, Errno>& result) {
    return result ? 0 : result.error().code;
  }

  void step() {
    switch (below(27)) {
      case 0:
      case 1:
      case 2:
        return make();
      case 3:
        return expect("unlink", code_of(fs_.names().unlink(any_directory(), any_name())),
                      {ENOENT, EISDIR, ENOTDIR, ESTALE});
      case 4:
        return expect("rmdir", code_of(fs_.names().remove_directory(kRootInode, "d")),
                      {ENOENT, ENOTEMPTY, ENOTDIR});
      case 5:
      case 6:
      case 7:
        return rename();
      case 8:
        return link();
      case 9:
        return list();
      case 10:
      case 11:
        return open();
      case 12:
        return close();
      case 13:
      case 14:
      case 15:
        return write();
      case 16:
      case 17:
        return read();
      case 18:
        return truncate();
      case 19:
      case 20:
        return punch();
      case 21:
        return allocate();
      case 22:
      case 23:
        return attributes();
      case 24:
        return look_around();
      default:
        return pin();
    }
  }

  void make() {
    const InodeNumber parent = any_directory();
    const auto made = below(5) == 0
                          ? fs_.names().make_directory(kRootInode, "d", 0755, kRoot)
                          : fs_.names().make_node(parent, any_name(), S_IFREG | 0644, 0, kRoot);
    expect("make", code_of(made), {EEXIST, ENOENT, ENOSPC, ESTALE, ENOTDIR});
    if (made) fs_.names().forget(made->inode, 1);
  }

  void rename() {
    const unsigned flags = std::array{0, 0, RENAME_EXCHANGE, RENAME_NOREPLACE}[below(4)];
    const InodeNumber from = any_directory();
    const InodeNumber to = any_directory();
    const std::string name = any_name();
    const std::string new_name = any_name();
    const Renaming renaming{from, name, to, new_name, flags};
    const auto cancellation = std::make_shared<Cancellation>();
    const int code = code_of(wait_for<Status>(
        [&](auto answer) {
          fs_.renames().rename(
              renaming, kRoot, [&] { return cancellation; }, std::move(answer));
        },
        cancellation, std::chrono::milliseconds(below(20))));
    expect("rename", code,
           {ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, ETXTBSY, EINVAL, ENOSPC, EINTR, ESTALE});
    if (code == EINTR) ++findings_.cancelled;
  }

  void link() {
    if (files_.empty()) return;
    const auto made = fs_.names().link(any_file().inode(), any_directory(), any_name());
    expect("link", code_of(made), {EEXIST, ENOENT, ENOSPC, ESTALE, ENOTDIR});
    if (made) fs_.names().forget(made->inode, 1);
  }

  void list() {
    const InodeNumber directory = any_directory();
    std::vector<InodeNumber> taken;
    std::uint64_t cookie = 0;
    const Status done =
        fs_.names().read_directory(directory, 0, [&](const Names::DirectoryEntry& entry) {
          if (entry.cookie <= cookie) findings_.report("a listing goes backwards");
          cookie = entry.cookie;
          if (entry.name != "." && entry.name != "..") {
            const auto behind = fs_.names().entry_of(entry.inode, directory, entry.name);
            expect("entry_of", code_of(behind), {});
            if (behind) taken.push_back(behind->inode);
          }
          return true;
        });
    expect("list", code_of(done), {ESTALE, ENOTDIR});
    for (const InodeNumber inode : taken) fs_.names().forget(inode, 1);
  }

  void attributes() {
    if (files_.empty()) return open();
    const InodeNumber inode = below(4) == 0 ? any_directory() : any_file().inode();
    AttributeChange change;
    change.mode = 0600 | static_cast<mode_t>(below(0200));
    expect("chmod", code_of(testing::set_attributes(fs_, inode, change)), {ESTALE});
    expect("getattr", code_of(fs_.attributes().get(inode)), {ESTALE});
    const std::string name = "user." + any_name();
    expect("setxattr",
           code_of(fs_.xattrs().set(inode, name, std::string(below(200), 'x'), 0, kRoot)),
           {ENOSPC, ESTALE});
    expect("getxattr", code_of(fs_.xattrs().get(inode, name)), {ENODATA, ESTALE});
    expect("listxattr", code_of(fs_.xattrs().list(inode)), {ESTALE});
    expect("removexattr", code_of(fs_.xattrs().remove(inode, name, kRoot)),
           {ENODATA, ENOSPC, ESTALE});
  }

  // What daxfsctl asks for, and statfs.
  void look_around() {
    if (fs_.reports().statistics().f_bfree > fs_.reports().statistics().f_blocks)
      findings_.report("too much is free");
    OpenFile* const file = files_.empty() ? nullptr : any_file().file.get();
    const std::array queries{DAXFS_QUERY_STATUS, DAXFS_QUERY_PINS, DAXFS_QUERY_LIMBO,
                             DAXFS_QUERY_EXTENTS};
    const std::uint32_t what = queries[below(file == nullptr ? 3 : queries.size())];
    for (std::uint64_t cursor = 0; cursor != DAXFS_QUERY_END;) {
      std::string lines;
      const Status done = fs_.reports().report(what, cursor, 4000, lines, file, kRoot);
      expect("report", code_of(done), {});
      if (!done) return;
    }
  }

  File& any_file() { return files_[below(files_.size())]; }

  void open() {
    if (files_.size() >= 6) return close();
    const auto found = fs_.names().lookup(any_directory(), any_name());
    expect("lookup", code_of(found), {ENOENT, ESTALE, ENOTDIR});
    if (!found) return;
    if (S_ISREG(found->attributes.st_mode)) {
      auto file = fs_.files().open(found->inode, O_RDWR);
      expect("open", code_of(file), {ESTALE});
      if (file)
        files_.push_back({std::move(*file), {found->inode.value, found->generation, 0}, {}});
    }
    fs_.names().forget(found->inode, 1);
  }

  void close() {
    if (files_.empty()) return;
    std::swap(files_[below(files_.size())], files_.back());
    fs_.files().release(std::move(files_.back().file));
    files_.pop_back();
  }

  // --- data ---

  void write() {
    if (files_.empty()) return open();
    File& file = any_file();
    const std::uint64_t first = below(kFileBlocks);
    std::string data;
    for (std::uint64_t i = 0; i <= below(8); ++i) {
      data += DescribedBlock::make(file.block(first + i), random_());
    }
    const std::unique_lock guard(locks_.of(file.inode()));
    const auto written = testing::write(fs_, *file.file, first * kBlockSize, data);
    expect("write", code_of(written), {ENOSPC});
  }

  void read() {
    if (files_.empty()) return open();
    File& file = any_file();
    const std::uint64_t first = below(kFileBlocks);
    std::string data;
    {
      const std::shared_lock guard(locks_.of(file.inode()));
      const auto got = testing::read(fs_, *file.file, first * kBlockSize, 10 * kBlockSize);
      expect("read", code_of(got), {});
      if (got) data = *got;
    }
    for (std::uint64_t i = 0; i * kBlockSize < data.size(); ++i) {
      const auto verdict = DescribedBlock::judge(
          std::string_view(data).substr(i * kBlockSize, kBlockSize), file.block(first + i));
      if (verdict == DescribedBlock::Verdict::foreign || verdict == DescribedBlock::Verdict::torn) {
        findings_.report(fmt::format("a read of block {} of inode {} shows something else",
                                     first + i, file.identity.inode));
      }
    }
  }

  void note_detach(const char* what, int code) {
    expect(what, code, {ETXTBSY, EINTR, ENOSPC});
    if (code == 0) ++findings_.detached;
    if (code == EINTR) ++findings_.cancelled;
  }

  void truncate() {
    if (files_.empty()) return open();
    File& file = any_file();
    AttributeChange change;
    change.size = below(kFileBlocks) * kBlockSize;
    const auto cancellation = std::make_shared<Cancellation>();
    const auto done = wait_for<Result<struct stat>>(
        [&](auto answer) {
          fs_.attributes().set(file.inode(), change, {}, kRoot, cancellation, std::move(answer));
        },
        cancellation, std::chrono::milliseconds(below(20)));
    note_detach("truncate", code_of(done));
  }

  void punch() {
    if (files_.empty()) return open();
    File& file = any_file();
    const auto cancellation = std::make_shared<Cancellation>();
    const FileOffset offset(below(kFileBlocks) * kBlockSize);
    const ByteCount length((1 + below(20)) * kBlockSize);
    const Status done = wait_for<Status>(
        [&](auto answer) {
          fs_.space().punch_hole(*file.file, offset, length, kRoot, cancellation,
                                 std::move(answer));
        },
        cancellation, std::chrono::milliseconds(below(20)));
    note_detach("punch", code_of(done));
  }

  void allocate() {
    if (files_.empty()) return open();
    File& file = any_file();
    const FileOffset offset(below(kFileBlocks) * kBlockSize);
    const ByteCount length((1 + below(10)) * kBlockSize);
    if (below(2) == 0) {
      return expect("allocate",
                    code_of(fs_.space().allocate(*file.file, offset, length, below(2) == 0, kRoot)),
                    {ENOSPC});
    }
    const std::unique_lock guard(locks_.of(file.inode()));  // zeroes in place
    expect("zero_range",
           code_of(fs_.space().zero_range(*file.file, offset, length, below(2) == 0, kRoot)),
           {ENOSPC});
  }

  // --- pins ---

  void pin() {
    if (files_.empty()) return open();
    File& file = any_file();
    if (file.pins.size() >= 4) {
      expect("unpin", code_of(testing::unpin(fs_, *file.file, file.pins.back().id)), {});
      file.pins.pop_back();
      return;
    }
    const std::uint64_t first = below(kFileBlocks);
    const std::uint32_t flags =
        (below(2) == 0 ? DAXFS_PIN_ALLOCATE : 0) | (below(3) == 0 ? DAXFS_PIN_SHORT : 0) |
        (below(2) == 0 ? DAXFS_PIN_WRITE : 0) | (below(2) == 0 ? DAXFS_PIN_NOWAIT : 0);
    const auto cancellation = std::make_shared<Cancellation>();
    const auto taken = wait_for<Result<PinId>>(
        [&](auto answer) {
          fs_.pins().pin(*file.file,
                         {.offset = FileOffset(first * kBlockSize),
                          .length = ByteCount((1 + below(8)) * kBlockSize),
                          .flags = flags},
                         kRoot, cancellation, std::move(answer));
        },
        cancellation, std::chrono::milliseconds(below(20)));
    expect("pin", code_of(taken), {ENXIO, ENOSPC, EAGAIN, EINTR});
    if (taken) file.pins.push_back({*taken, first});
  }

  // Straight from the pool, as a holder that has mapped it would.
  void look_through_pins() {
    for (File& file : files_) {
      for (const Pin& pin : file.pins) {
        const auto held = fs_.extents().of_pin(*file.file, pin.id, 0, 100);
        expect("pin_extents", code_of(held), {});
        if (!held) continue;
        const std::shared_lock guard(locks_.of(file.inode()));
        for (const PinnedExtent& extent : held->extents) {
          for (std::uint64_t at = 0; at < extent.length.value; at += kBlockSize) {
            const std::string bytes(reinterpret_cast<const char*>(fs_.mount().volume.medium().at(
                                        extent.pool + ByteCount(at))),
                                    kBlockSize);
            ++findings_.held_blocks;
            const auto verdict =
                DescribedBlock::judge(bytes, file.block((extent.file.value + at) / kBlockSize));
            if (verdict == DescribedBlock::Verdict::foreign ||
                verdict == DescribedBlock::Verdict::torn) {
              ++findings_.foreign;
            }
          }
        }
      }
    }
  }

  Filesystem& fs_;
  ContentLocks& locks_;
  Findings& findings_;
  std::mt19937_64 random_;
  std::vector<File> files_;
};

// Checks all the time, and must find nothing.
void scrub_again_and_again(Filesystem& fs, const std::stop_token& stop, Findings& findings) {
  while (!stop.stop_requested()) {
    auto scrub = Scrub::begin(fs, std::chrono::milliseconds(0));
    if (!scrub) return findings.report("scrub: cannot begin");
    std::string lines;
    while ((*scrub)->step(lines)) continue;
    const std::size_t summary = lines.rfind("{\"summary\"");
    if (lines.find("\"clean\":true", summary) == lines.npos) findings.report("scrub: " + lines);
    ++findings.scrubs;
  }
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

void run_threads(PinPolicy policy, Findings& findings) {
  HeapMedium medium{ByteCount(kPoolBytes)};
  format_medium(medium);
  Mounted mounted(medium, mount_options(policy, 3));
  Filesystem& fs = *mounted.fs;
  for (const char* name : {"A", "B"}) {
    REQUIRE(number_of(fs, fs.names().make_directory(kRootInode, name, 0755, kRoot)));
  }
  const std::size_t operations = from_environment("DAXFS_MODEL_THREADS_OPS", 10000);
  const std::uint64_t seed = from_environment("DAXFS_MODEL_SEED", 1);
  ContentLocks locks;
  {
    const std::jthread scrubber(
        [&](const std::stop_token& stop) { scrub_again_and_again(fs, stop, findings); });
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] { Worker(fs, locks, findings, seed * 100 + i).run(operations); });
    }
  }
  const GateCounts gate = fs.gate().totals();
  CHECK(gate.long_pins == 0);
  CHECK(gate.short_pins == 0);
  CHECK(gate.pinned_bytes.value == 0);
  CHECK(gate.limbo.value == 0);
  CHECK(gate.waiting == 0);
  const std::uint64_t free = fs.reports().statistics().f_bfree;
  fs.unmount();
  const CheckReport report = check_volume(medium, "pool");
  for (const std::string& error : report.errors) UNSCOPED_INFO(error);
  CHECK(report.ok());
  CHECK(free == report.free_blocks);
  for (const std::string& wrong : findings.wrong) UNSCOPED_INFO(wrong);
  CHECK(findings.wrong.empty());
  CHECK(findings.held_blocks > 0);
  CHECK(findings.detached > 0);
  CHECK(findings.scrubs > 10);
}

}  // namespace

TEST_CASE("threads over a shared tree; a holder's blocks stay its own under refuse", "[model]") {
  Findings findings;
  run_threads(PinPolicy::refuse, findings);
  CHECK(findings.foreign == 0);
}

TEST_CASE("threads over a shared tree; a holder's blocks stay its own under defer", "[model]") {
  Findings findings;
  run_threads(PinPolicy::defer, findings);
  CHECK(findings.foreign == 0);
}

#if !defined(__SANITIZE_THREAD__)  // the corruption that it shows is a data race
TEST_CASE("threads over a shared tree; under ignore holders see corruption", "[model]") {
  Findings findings;
  run_threads(PinPolicy::ignore, findings);
  CHECK(findings.foreign > 0);
}
#endif
