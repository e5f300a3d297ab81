#include "blockmap/medium/pool_medium.h"

#include <absl/container/flat_hash_map.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <libpmem2.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/require.h"
#include "blockmap/medium/lost_pages.h"

namespace daxfs {
namespace {

constexpr char kForce[] = "PMEM2_FORCE_GRANULARITY";

struct MapDeleter {
  void operator()(pmem2_map* map) const { pmem2_map_delete(&map); }
};
using Map = std::unique_ptr<pmem2_map, MapDeleter>;
struct ConfigDeleter {
  void operator()(pmem2_config* config) const { pmem2_config_delete(&config); }
};
struct SourceDeleter {
  void operator()(pmem2_source* source) const { pmem2_source_delete(&source); }
};

// How a pool is mapped, and what was found missing below it.
struct Mapping {
  Map map;
  std::unique_ptr<LostPages> lost;  // goes first
  int fd;                           // to ask why something is missing
};

class MappedMedium : public Medium {
 public:
  explicit MappedMedium(Mapping mapping) : mapping_(std::move(mapping)) {
    base_ = static_cast<std::byte*>(pmem2_map_get_address(map()));
    size_ = ByteCount(pmem2_map_get_size(map()));
  }

  bool failed() const override { return mapping_.lost->any(); }
  bool lost(PoolOffset start, ByteCount length) const override {
    return mapping_.lost->any_in(start, length);
  }
  std::string failure() const override { return mapping_.lost->failure(mapping_.fd); }

 protected:
  std::byte* target(PoolOffset to, std::size_t length) const {
    require_inside(to, ByteCount(length));
    return base_ + to.value;
  }
  pmem2_map* map() const { return mapping_.map.get(); }

 private:
  const Mapping mapping_;
};

// Granularity byte or cache line: everything happens in this thread's CPU.
class FlushingMedium final : public MappedMedium {
 public:
  explicit FlushingMedium(Mapping owned)
      : MappedMedium(std::move(owned)),
        copy_(pmem2_get_memcpy_fn(map())),
        set_(pmem2_get_memset_fn(map())),
        flush_(pmem2_get_flush_fn(map())),
        drain_(pmem2_get_drain_fn(map())) {}

  void write(PoolOffset to, std::span<const std::byte> data) override {
    copy_(target(to, data.size()), data.data(), data.size(), kPastCaches);
  }
  void zero(PoolOffset to, ByteCount length) override {
    set_(target(to, length.value), 0, length.value, kPastCaches);
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    std::byte* const place = target(to, data.size());
    copy_small(place, data);
    flush_(place, data.size());
  }
  void fence() override { drain_(); }

 private:
  static constexpr unsigned kPastCaches = PMEM2_F_MEM_NONTEMPORAL | PMEM2_F_MEM_NODRAIN;

  const pmem2_memcpy_fn copy_;
  const pmem2_memset_fn set_;
  const pmem2_flush_fn flush_;
  const pmem2_drain_fn drain_;
};

// Granularity page: remembers which pages each thread touched, and its fence writes them back.
class SyncingMedium final : public MappedMedium {
 public:
  using MappedMedium::MappedMedium;

  void write(PoolOffset to, std::span<const std::byte> data) override {
    if (data.empty()) return;
    std::memcpy(target(to, data.size()), data.data(), data.size());
    touched(to, data.size());
  }
  void zero(PoolOffset to, ByteCount length) override {
    if (length.value == 0) return;
    std::memset(target(to, length.value), 0, length.value);
    touched(to, length.value);
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    if (data.empty()) return;
    copy_small(target(to, data.size()), data);
    touched(to, data.size());
  }
  void fence() override;
  bool failed() const override {
    return failed_.load(std::memory_order_acquire) || MappedMedium::failed();
  }
  std::string failure() const override {
    const std::string lost = MappedMedium::failure();
    return lost.empty() && failed() ? "changes could not be written back (msync failed)" : lost;
  }

 private:
  struct Pages {
    std::uint64_t begin;
    std::uint64_t end;
  };
  // One msync is at least one flush of the disk's cache; looking through clean pages is cheaper.
  static constexpr std::uint64_t kJoinGap = 64;

  void touched(PoolOffset to, std::uint64_t length);
  // In ascending order, with those that are at most `gap` pages apart made one.
  static void join(std::vector<Pages>& pages, std::uint64_t gap);

  Mutex mutex_;  // an innermost lock, not held during msync
  // A thread's entry goes with its fence. If it ends without one, the next thread with its id
  // writes a few pages too many.
  absl::flat_hash_map<std::thread::id, std::vector<Pages>> unsynced_ GUARDED_BY(mutex_);
  std::atomic<bool> failed_ = false;
};

void SyncingMedium::touched(PoolOffset to, std::uint64_t length) {
  const Pages now{to.value >> kBlockShift, ((to.value + length - 1) >> kBlockShift) + 1};
  const MutexLock lock(mutex_);
  std::vector<Pages>& mine = unsynced_[std::this_thread::get_id()];
  if (!mine.empty() && now.begin <= mine.back().end && mine.back().begin <= now.end) {
    mine.back() = {std::min(mine.back().begin, now.begin), std::max(mine.back().end, now.end)};
  } else {
    // Access times are stored without a fence: a thread that reads the same files must not remember
    // more and more.
    constexpr std::size_t kMany = 1024;
    if (mine.size() >= kMany && mine.size() == mine.capacity()) join(mine, 0);
    mine.push_back(now);
  }
}

void SyncingMedium::join(std::vector<Pages>& pages, std::uint64_t gap) {
  std::ranges::sort(pages, {}, &Pages::begin);
  std::size_t last = 0;
  for (const Pages& next : pages) {
    if (next.begin <= pages[last].end + gap) {
      pages[last].end = std::max(pages[last].end, next.end);
    } else {
      pages[++last] = next;
    }
  }
  if (!pages.empty()) pages.resize(last + 1);
}

void SyncingMedium::fence() {
  std::vector<Pages> mine;
  {
    const MutexLock lock(mutex_);
    const auto entry = unsynced_.find(std::this_thread::get_id());
    if (entry == unsynced_.end()) return;
    mine = std::move(entry->second);
    unsynced_.erase(entry);
  }
  join(mine, kJoinGap);
  for (const Pages& run : mine) {
    std::byte* const start = base_ + (run.begin << kBlockShift);
    // The kernel reports a lost page once and then counts it as clean: trying again would lie.
    if (::msync(start, (run.end - run.begin) << kBlockShift, MS_SYNC) != 0) {
      failed_.store(true, std::memory_order_release);
    }
  }
}

bool on_tmpfs(int fd) {
  struct statfs st {};
  return ::fstatfs(fd, &st) == 0 && st.f_type == TMPFS_MAGIC;
}

// Sets the environment variable for the time of a mapping, unless the user has set it.
class ForcedGranularity {
 public:
  explicit ForcedGranularity(bool wanted) : active_(wanted && std::getenv(kForce) == nullptr) {
    if (active_) ::setenv(kForce, "CACHE_LINE", 1);
  }
  ~ForcedGranularity() {
    if (active_) ::unsetenv(kForce);
  }
  ForcedGranularity(const ForcedGranularity&) = delete;
  ForcedGranularity& operator=(const ForcedGranularity&) = delete;

 private:
  const bool active_;
};

// Whether a finer granularity than pages was asked for where there is no persistent memory.
bool is_emulated(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) == 0 && S_ISCHR(st.st_mode)) return false;
  if (on_tmpfs(fd)) return true;
  if (std::getenv(kForce) == nullptr) return false;
  struct statx answer {};
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &answer) != 0 ||
         (answer.stx_attributes & STATX_ATTR_DAX) == 0;
}

Granularity to_granularity(pmem2_granularity granularity) {
  switch (granularity) {
    case PMEM2_GRANULARITY_BYTE:
      return Granularity::byte;
    case PMEM2_GRANULARITY_CACHE_LINE:
      return Granularity::cache_line;
    case PMEM2_GRANULARITY_PAGE:
      break;
  }
  return Granularity::page;
}

}  // namespace

std::string_view to_string(Granularity granularity) {
  switch (granularity) {
    case Granularity::byte:
      return "byte";
    case Granularity::cache_line:
      return "cache_line";
    case Granularity::page:
      break;
  }
  return "page";
}

Outcome<MappedPool> map_pool(int fd, const std::string& path, ByteCount length, std::uint64_t unit,
                             bool read_only) {
  const auto failure = [&](int code) {
    // libpmem2's own codes lie far below the negated errnos.
    return problem(code > PMEM2_E_UNKNOWN ? -code : EIO,
                   fmt::format("pool {}: cannot be mapped: {}", path, pmem2_errormsg()));
  };

  pmem2_config* raw_config = nullptr;
  if (const int code = pmem2_config_new(&raw_config)) return failure(code);
  const std::unique_ptr<pmem2_config, ConfigDeleter> config(raw_config);
  pmem2_source* raw_source = nullptr;
  if (const int code = pmem2_source_from_fd(&raw_source, fd)) return failure(code);
  const std::unique_ptr<pmem2_source, SourceDeleter> source(raw_source);

  const unsigned protection = PMEM2_PROT_READ | (read_only ? 0 : PMEM2_PROT_WRITE);
  for (const int code :
       {pmem2_config_set_required_store_granularity(config.get(), PMEM2_GRANULARITY_PAGE),
        pmem2_config_set_sharing(config.get(), PMEM2_SHARED),
        pmem2_config_set_protection(config.get(), protection),
        pmem2_config_set_length(config.get(), length.value)}) {
    if (code != 0) return failure(code);
  }

  pmem2_map* raw_map = nullptr;
  {
    const ForcedGranularity forced(on_tmpfs(fd));
    if (const int code = pmem2_map_new(&raw_map, config.get(), source.get())) return failure(code);
  }
  Mapping mapping{.map = Map(raw_map), .lost = nullptr, .fd = fd};
  auto lost =
      LostPages::watch(static_cast<std::byte*>(pmem2_map_get_address(raw_map)), length, unit);
  if (!lost) return problem(lost.error().code, fmt::format("pool {}: {}", path, lost.error().text));
  mapping.lost = std::move(*lost);
  const Granularity granularity = to_granularity(pmem2_map_get_store_granularity(raw_map));
  std::unique_ptr<Medium> medium;
  if (granularity == Granularity::page) {
    medium = std::make_unique<SyncingMedium>(std::move(mapping));
  } else {
    medium = std::make_unique<FlushingMedium>(std::move(mapping));
  }
  return MappedPool{std::move(medium), granularity,
                    granularity != Granularity::page && is_emulated(fd)};
}

}  // namespace daxfs
