// Many threads on a few files: no block is ever in two owners' hands, none is lost, all counts come
// out even. The files' locks are held as the filesystem holds them. Worth most under
// ThreadSanitizer.
#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr std::size_t kFiles = 3;
constexpr std::size_t kFileBlocks = 24;
constexpr std::size_t kPoolBlocks = 96;
constexpr std::size_t kHolders = 6;

class World;

struct Request {
  World* world;
  TicketRef ticket;
  bool detach;
  std::size_t file;
  std::size_t first;
  std::size_t count;
  pid_t process;
  std::size_t holder;
  PinKind kind;
  bool nowait;
};
using RequestRef = std::shared_ptr<Request>;

class World {
 public:
  explicit World(const DetachPolicy& park)
      : gate_(
            {.short_timeout_ms = 1},
            {.free_blocks = [this](auto ranges) { give_back(ranges); },
             .policies = [&park](PinPolicy policy) -> const DetachPolicy& {
               return policy == PinPolicy::ignore ? park : policy_for(policy);
             }}) {
    for (HolderId& holder : holders_) holder = gate_.new_holder();
    for (std::size_t i = 0; i < kPoolBlocks; ++i) free_.push_back(i);
  }
  ~World() { gate_.stop(); }

  void worker(unsigned seed, int steps) {
    std::mt19937 random(seed);
    std::vector<std::weak_ptr<Request>> recent;
    for (int i = 0; i < steps; ++i) {
      switch (random() % 8) {
        case 0:
        case 1:
          write(random() % kFiles, random() % kFileBlocks);
          break;
        case 2:
        case 3:
        case 4:
        case 5: {
          const RequestRef request = make_request(random);
          recent.push_back(request);
          attempt(request);
          break;
        }
        case 6:
          // A descriptor is closed (which in the end unpins everything that it pinned).
          drop(random() % kHolders);
          break;
        default:
          if (!recent.empty()) {
            if (const RequestRef request = recent[random() % recent.size()].lock()) {
              gate_.cancel(request->ticket);
            }
          }
          if (random() % 16 == 0) switch_policy(random);
      }
    }
  }

  // All workers have gone: lets everything come to its end.
  void finish() {
    finishing_ = true;
    std::unique_lock lock(end_mutex_);
    while (open_ > 0) {
      const std::uint64_t seen = changes_;
      lock.unlock();
      for (std::size_t i = 0; i < kHolders; ++i) drop(i);
      lock.lock();
      changed_.wait(lock, [&] { return open_ == 0 || changes_ != seen; });
    }
    lock.unlock();
    for (std::size_t i = 0; i < kHolders; ++i) drop(i);
  }

  void check_all() {
    const GateCounts totals = gate_.totals();
    CHECK(totals.waiting == 0);
    CHECK(totals.limbo == BlockCount(0));
    CHECK(totals.long_pins == 0);
    CHECK(totals.short_pins == 0);
    CHECK(totals.pinned_bytes == ByteCount(0));
    bool counted = false;
    gate_.counts(blocks(0, kPoolBlocks), [&](PoolRange, PinCounts) { counted = true; });
    CHECK_FALSE(counted);
    std::size_t in_files = 0;
    for (const File& file : files_) {
      for (const auto& block : file.map) in_files += block ? 1 : 0;
    }
    CHECK(in_files + free_.size() == kPoolBlocks);
    CHECK(two_owners_ == 0);
    CHECK(under_a_pin_ == 0);
    // It was worth the trouble.
    CHECK(parked_ > 100);
    CHECK(detached_ > 100);
    CHECK(pinned_ > 100);
  }

 private:
  enum class Owner { free, file, nobody };
  struct File {
    std::shared_mutex mutex;
    std::array<std::optional<std::size_t>, kFileBlocks> map;
  };

  void give_back(std::span<const PoolRange> ranges) {
    const std::lock_guard lock(pool_mutex_);
    for (const PoolRange& range : ranges) {
      for (auto b = range.start.value; b < range.end().value; ++b) {
        if (owner_[b] != Owner::nobody) ++two_owners_;
        if (held_[b] != 0) ++under_a_pin_;
        owner_[b] = Owner::free;
        free_.push_back(b);
      }
    }
  }

  void write(std::size_t number, std::size_t first) {
    File& file = files_[number];
    const std::unique_lock lock(file.mutex);
    for (std::size_t at = first; at < std::min(first + 6, kFileBlocks); ++at) {
      if (file.map[at]) continue;
      const std::lock_guard pool(pool_mutex_);
      if (free_.empty()) return;
      std::swap(free_[at % free_.size()], free_.back());
      const std::size_t block = free_.back();
      free_.pop_back();
      if (owner_[block] != Owner::free) ++two_owners_;
      if (held_[block] != 0) ++under_a_pin_;
      owner_[block] = Owner::file;
      file.map[at] = block;
    }
  }

  RequestRef make_request(std::mt19937& random) {
    const auto request = std::make_shared<Request>();
    request->world = this;
    request->detach = random() % 5 < 2;
    request->file = random() % kFiles;
    request->first = random() % kFileBlocks;
    request->count = 1 + random() % std::min<std::size_t>(8, kFileBlocks - request->first);
    request->process = static_cast<pid_t>(1 + random() % 3);
    request->holder = random() % kHolders;
    request->kind = random() % 2 == 0 ? PinKind::short_term : PinKind::long_term;
    request->nowait = random() % 4 == 0;
    {
      const std::lock_guard lock(end_mutex_);
      ++open_;
    }
    request->ticket = gate_.begin([this, request] { attempt(request); });
    return request;
  }

  // What the filesystem does for each request, and again for each retry.
  void attempt(const RequestRef& request) {
    const bool done = request->detach ? detach(*request) : pin(*request);
    if (!done) {
      ++parked_;
      return;
    }
    gate_.end(request->ticket);
    const std::lock_guard lock(end_mutex_);
    --open_;
    ++changes_;
    changed_.notify_all();
  }

  static std::vector<PoolRange> ranges(const File& file, const Request& request) {
    std::vector<PoolRange> result;
    for (std::size_t at = request.first; at < request.first + request.count; ++at) {
      if (file.map[at]) result.push_back({PoolBlock(*file.map[at]), BlockCount(1)});
    }
    return result;
  }

  bool detach(const Request& request) {
    File& file = files_[request.file];
    const std::unique_lock lock(file.mutex);
    const std::vector<PoolRange> leaving = ranges(file, request);
    const auto verdict =
        gate_.judge(request.ticket, {.inode = InodeNumber{request.file},
                                     .range = in_file(request.first, request.count),
                                     .blocks = leaving,
                                     .requester = {request.process, 0}});
    if (verdict == Verdict::parked) return false;
    if (!verdict) return true;
    {
      const std::lock_guard pool(pool_mutex_);
      for (const PoolRange& range : leaving) {
        if (owner_[range.start.value] != Owner::file) ++two_owners_;
        owner_[range.start.value] = Owner::nobody;
      }
    }
    for (std::size_t at = request.first; at < request.first + request.count; ++at) {
      file.map[at].reset();
    }
    gate_.detached(request.ticket, leaving);
    ++detached_;
    return true;
  }

  bool pin(const Request& request) {
    File& file = files_[request.file];
    // A holder lives as long as requests of it do.
    const std::shared_lock holder(holder_mutexes_[request.holder]);
    const std::shared_lock lock(file.mutex);
    const std::vector<PoolRange> where = ranges(file, request);
    const auto id = gate_.pin(request.ticket, {.holder = holders_[request.holder],
                                               .inode = InodeNumber{request.file},
                                               .offset = offset_of(FileBlock(request.first)),
                                               .length = bytes(BlockCount(request.count)),
                                               .blocks = where,
                                               .requester = {request.process, 0},
                                               .kind = request.kind,
                                               .nowait = request.nowait});
    if (parked(id)) return false;
    if (!granted(id)) return true;
    for (const PoolRange& range : where) ++held_[range.start.value];
    ++pinned_;
    if (request.kind == PinKind::short_term || finishing_) {
      for (const PoolRange& range : where) --held_[range.start.value];
      if (!gate_.unpin(holders_[request.holder], **id)) ++two_owners_;
      return true;
    }
    const std::lock_guard held(held_mutex_);
    held_by_[request.holder].insert(held_by_[request.holder].end(), where.begin(), where.end());
    return true;
  }

  void drop(std::size_t number) {
    const std::unique_lock holder(holder_mutexes_[number]);
    {
      const std::lock_guard held(held_mutex_);
      for (const PoolRange& range : held_by_[number]) --held_[range.start.value];
      held_by_[number].clear();
    }
    gate_.drop(holders_[number]);
  }

  void switch_policy(std::mt19937& random) {
    static constexpr PinPolicy kPolicies[] = {PinPolicy::refuse, PinPolicy::defer,
                                              PinPolicy::ignore};  // which here parks
    gate_.set_options({.pin_policy = kPolicies[random() % 3],
                       .short_timeout_ms = random() % 2 == 0 ? 1 : kHour,
                       .limbo_limit = random() % 2 == 0 ? ByteCount(UINT64_MAX)
                                                        : bytes(BlockCount(random() % 20))});
  }

  // Order: holder, file, pool or held.
  std::array<std::shared_mutex, kHolders> holder_mutexes_;
  std::array<File, kFiles> files_;
  std::mutex pool_mutex_;  // protects the next two
  std::array<Owner, kPoolBlocks> owner_{};
  std::vector<std::size_t> free_;

  // Which blocks a device would still be writing to.
  std::array<std::atomic<int>, kPoolBlocks> held_{};
  std::mutex held_mutex_;
  std::array<std::vector<PoolRange>, kHolders> held_by_;

  std::mutex end_mutex_;
  std::condition_variable changed_;
  int open_ = 0;
  std::uint64_t changes_ = 0;

  std::atomic<bool> finishing_ = false;
  std::atomic<int> two_owners_ = 0;
  std::atomic<int> under_a_pin_ = 0;
  std::atomic<int> parked_ = 0;
  std::atomic<int> detached_ = 0;
  std::atomic<int> pinned_ = 0;
  std::array<HolderId, kHolders> holders_;
  Gate gate_;
};

}  // namespace

TEST_CASE("gate: threads, files and an allocator around one gate") {
  const ParkPolicy park(2);
  const ParkPolicy park_for_ever;
  for (const DetachPolicy* policy : {&park, &park_for_ever}) {
    for (unsigned seed = 0; seed < 4; ++seed) {
      World world(*policy);
      std::vector<std::thread> threads;
      for (unsigned i = 0; i < 4; ++i) {
        threads.emplace_back([&world, seed, i] { world.worker(100 * seed + i, 4000); });
      }
      for (std::thread& thread : threads) thread.join();
      world.finish();
      world.check_all();
    }
  }
}
