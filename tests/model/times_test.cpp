// The times of a file that several write to at once, in place: durable when each write returns.
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "blockmap/format.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

// Knows which words are durable for sure: stored, and then fenced by the very thread.
class WordsMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;
  void store(PoolOffset to, std::span<const std::byte> data) override {
    if (to == watched) {
      if (auto hook = take(before_store)) hook();
      std::this_thread::yield();
    }
    const std::lock_guard lock(mutex_);
    std::int64_t before = load<std::int64_t>(to);
    HeapMedium::store(to, data);
    if (to != watched) return;
    if (load<std::int64_t>(to) < before) went_back = true;
    stored_[std::this_thread::get_id()] = load<std::int64_t>(to);
  }
  void fence() override {
    if (auto hook = take(before_fence)) hook();
    const std::lock_guard lock(mutex_);
    const auto mine = stored_.find(std::this_thread::get_id());
    if (mine == stored_.end()) return;
    // The line goes out as it is now.
    durable_ = load<std::int64_t>(watched);
    stored_.erase(mine);
  }
  std::int64_t durable() const {
    const std::lock_guard lock(mutex_);
    return durable_;
  }

  PoolOffset watched;
  // Once each, on whichever thread comes first.
  std::function<void()> before_store;
  std::function<void()> before_fence;
  bool went_back = false;

 private:
  std::function<void()> take(std::function<void()>& hook) {
    const std::lock_guard lock(mutex_);
    return std::exchange(hook, {});
  }

  mutable std::mutex mutex_;
  std::map<std::thread::id, std::int64_t> stored_;
  std::int64_t durable_ = 0;
};

struct TwoWriters {
  TwoWriters() {
    format_medium(medium);
    mounted.emplace(medium, mount_options(PinPolicy::refuse));
    const auto number =
        number_of(fs(), fs().names().make_node(kRootInode, "f", S_IFREG | 0644, 0, {}));
    REQUIRE(number);
    first = std::move(*fs().files().open(*number, O_RDWR));
    second = std::move(*fs().files().open(*number, O_RDWR));
    REQUIRE(write(fs(), *first, 0, std::string(2 * kBlockSize, 'x')));
    medium.watched = first->inode->slot + ByteCount(offsetof(pmem::InodeRecord, mtime_ns));
  }
  ~TwoWriters() {
    fs().files().release(std::move(first));
    fs().files().release(std::move(second));
    fs().unmount();
  }
  Filesystem& fs() { return *mounted->fs; }
  // The clock moves on.
  static void next_tick() {
    for (const std::int64_t now = file_time_now(); file_time_now() == now;) {
      std::this_thread::yield();
    }
  }
  // Whether the other writer's time is durable as soon as its write has returned.
  bool second_is_durable() {
    const std::int64_t began = file_time_now();
    const bool written = write(fs(), *second, kBlockSize, "second").has_value();
    return written && medium.durable() >= began;
  }

  WordsMedium medium{ByteCount(4 << 20)};
  std::optional<Mounted> mounted;
  OpenFileRef first;
  OpenFileRef second;
};

}  // namespace

TEST_CASE_METHOD(TwoWriters, "a time that another writer has stored is not durable by that") {
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    bool durable = false;
    next_tick();
    medium.before_fence = [&] { std::thread([&] { durable = second_is_durable(); }).join(); };
    REQUIRE(write(fs(), *first, 0, "first"));
    REQUIRE(durable);
  }
}

TEST_CASE_METHOD(TwoWriters,
                 "a time that another writer is about to store is not durable by that") {
  for (int round = 0; round < 5; ++round) {
    CAPTURE(round);
    std::future<bool> durable;
    next_tick();
    medium.before_store = [&] {
      durable = std::async(std::launch::async, [&] { return second_is_durable(); });
      // It may wait for us. How long we look decides only how surely one that does not is caught.
      durable.wait_for(std::chrono::milliseconds(50));
    };
    REQUIRE(write(fs(), *first, 0, "first"));
    REQUIRE(durable.get());
  }
}

TEST_CASE_METHOD(TwoWriters, "the time on the medium never goes back, and ends as it is shown") {
  const auto write_often = [this](OpenFile& file, std::uint64_t at) {
    bool all = true;
    for (int i = 0; i < 20'000; ++i) all = write(fs(), file, at, "again").has_value() && all;
    return all;
  };
  auto other = std::async(std::launch::async, [&] { return write_often(*second, kBlockSize); });
  CHECK(write_often(*first, 0));
  CHECK(other.get());
  CHECK_FALSE(medium.went_back);
  CHECK(medium.load<std::int64_t>(medium.watched) == first->inode->mtime.load());
  CHECK(medium.durable() == first->inode->mtime.load());
}
