// Holders that die while a device is still at work for them: io_uring requests in flight, reads
// into pinned memory and writes out of it. tests/soak/run inflight does it by the hundred.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr const char* kRequests = "8";
constexpr std::size_t kHeld = 8 * 128 * 1024;
constexpr std::size_t kPiece = 64 * 1024;

std::size_t count_of(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

// soak/slow_file.c, mounted in a directory of its own.
class SlowDevice {
 public:
  explicit SlowDevice(std::string directory)
      : directory_((std::filesystem::create_directory(directory), std::move(directory))),
        server_({tool("tests/slow_file"), directory_, kRequests}) {}
  ~SlowDevice() {
    umount2(directory_.c_str(), MNT_DETACH);
    server_.signal(SIGKILL);
  }
  SlowDevice(const SlowDevice&) = delete;
  SlowDevice& operator=(const SlowDevice&) = delete;

  std::string path() const { return directory_ + "/device"; }
  bool is_ready() { return server_.says("ready"); }
  // In this round (from 1 on) all requests have arrived; the file was closed after the last one.
  bool holds(std::size_t round) {
    return eventually([&] { return count_of(server_.out(), "held") == round; });
  }
  bool is_idle(std::size_t round) {
    return eventually([&] { return count_of(server_.out(), "idle") == round; });
  }
  void answer() { server_.signal(SIGUSR1); }
  // Requests that wrote bytes that are not the holder's.
  std::size_t foreign() const { return count_of(server_.out(), "foreign"); }

 private:
  std::string directory_;
  Process server_;
};

// A file that takes what space there is, and whose every block is known.
class Victim {
 public:
  explicit Victim(const std::string& path) : path_(path), buffer_(kPiece) {
    fd_ = open_file(path, O_RDWR | O_CREAT | O_DIRECT);
    std::fill_n(buffer_.data(), kPiece, 'v');
  }
  ~Victim() { unlink(path_.c_str()); }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  void fill() {
    ssize_t wrote = 0;
    while ((wrote = pwrite(fd_.get(), buffer_.data(), kPiece, size_)) > 0) size_ += wrote;
  }
  // Read past the page cache: how many bytes are somebody else's.
  std::size_t foreign() {
    AlignedBuffer read(kPiece);
    std::size_t found = 0;
    for (off_t at = 0; at < size_; at += kPiece) {
      const ssize_t got = pread(fd_.get(), read.data(), kPiece, at);
      for (ssize_t i = 0; i < got; ++i) found += read.data()[i] != 'v';
    }
    return found;
  }

 private:
  std::string path_;
  UniqueFd fd_;
  AlignedBuffer buffer_;
  off_t size_ = 0;
};

struct Seen {
  std::size_t in_victim = 0;
  bool early = false;  // the truncate was answered while the device was at work
  int answer = 0;      // of the truncate: an errno
};

// The holder dies, its file is truncated and the space filled, all while the device is at work.
Seen round(Mount& mount, SlowDevice& device, std::size_t number, bool lease,
           const std::function<void()>& meanwhile) {
  const std::string file = mount.path("held");
  std::vector<std::string> words{tool("tests/inflight_holder"), file, device.path(), kRequests,
                                 "plain"};
  if (lease) words.emplace_back("lease");
  Process holder(words);
  REQUIRE(holder.says("submitted"));
  REQUIRE(device.holds(number));
  holder.signal(SIGKILL);
  std::atomic<bool> done = false;
  Seen seen;
  std::thread detacher([&] {
    while ((seen.answer = truncate(file.c_str(), 0) == 0 ? 0 : errno) == ETXTBSY)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    done = true;
  });
  holder.finish();
  {
    Victim victim(mount.path("victim"));
    victim.fill();
    seen.early = done;
    meanwhile();
    victim.fill();
    device.answer();
    detacher.join();
    CHECK(device.is_idle(number));
    CHECK(eventually([&] { return mount.ctl("pins").empty() && mount.limbo() == 0; }));
    victim.fill();
    seen.in_victim = victim.foreign();
  }
  unlink(file.c_str());
  return seen;
}

}  // namespace

TEST_CASE("nobody gets the blocks of a dead holder while a device is at work for it") {
  need_mounts();
  if (geteuid() != 0) skip_here("only root may count the requests of a mount");
  Mount mount({.size = "16M+"});
  mount.unmount();
  SlowDevice device(mount.beside("slow"));
  REQUIRE(device.is_ready());
  std::size_t number = 0;
  for (const std::string policy : {"refuse", "defer", "wait", "break"}) {
    INFO(policy);
    mount.mount("pin_policy=" + policy + ",exit_grace=30s");
    const std::uint64_t free = mount.free();
    for (int i = 0; i < 3; ++i) {
      const Seen seen = round(mount, device, ++number, policy == "break", [&] {
        if (policy == "defer")
          CHECK(eventually([&] { return mount.limbo() == kHeld; }));
        else
          CHECK(mount.limbo() == 0);
      });
      CHECK(seen.in_victim == 0);
      CHECK(seen.answer == 0);
      CHECK((policy == "defer" || !seen.early));
      CHECK(mount.space_becomes(free, 0));
    }
    mount.unmount();
  }
  CHECK(device.foreign() == 0);
  // Else nothing of this would have been seen.
  mount.mount("pin_policy=wait,exit_grace=0");
  std::size_t in_victim = 0;
  for (int i = 0; i < 10 && (in_victim == 0 || device.foreign() == 0); ++i)
    in_victim += round(mount, device, ++number, false, [] {}).in_victim;
  CHECK(in_victim != 0);
  CHECK(device.foreign() != 0);
}

}  // namespace daxfs::test
