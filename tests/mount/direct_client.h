// Clients of direct access in tests: through libdaxfs, and by hand, to stop in the middle of a
// copy.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "client/daxfs.h"
#include "client/direct_extents.h"
#include "client/direct_map.h"
#include "client/doorbell.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

namespace daxfs::test {

inline constexpr std::size_t kBlocks = 8;

struct DirectMount : Mount {
  explicit DirectMount(const std::string& options = "short_timeout=60s")
      : Mount({.options = "direct," + options}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
  }
  bool attached(std::size_t count) const {
    return eventually([&] { return live_list(*this, DAXFS_QUERY_ATTACHED).size() == count; });
  }
  const std::string file = path("f");
};

// An attached file, through libdaxfs.
struct Direct {
  explicit Direct(const std::string& path, int flags = O_RDWR) {
    const UniqueFd fd = open_file(path, flags);
    direct = daxfs_attach(fd.get());
    INFO(std::strerror(errno));
    REQUIRE(direct != nullptr);
  }
  ~Direct() { daxfs_detach(direct); }
  Direct(const Direct&) = delete;
  Direct& operator=(const Direct&) = delete;
  std::string read(std::uint64_t offset, std::size_t length) {
    std::string out(length, '?');
    const ssize_t got = daxfs_pread(direct, out.data(), length, offset);
    REQUIRE(got >= 0);
    out.resize(static_cast<std::size_t>(got));
    return out;
  }
  void write(std::uint64_t offset, const std::string& data) {
    REQUIRE(daxfs_pwrite(direct, data.data(), data.size(), offset) ==
            static_cast<ssize_t>(data.size()));
  }
  daxfs_counts counts() {
    daxfs_counts out;
    daxfs_direct_counts(direct, &out);
    return out;
  }
  daxfs_direct* direct;
};

// Copies the first block's first bytes by hand, and stays in the middle of it: a child of the test.
class HalfCopy {
 public:
  explicit HalfCopy(const std::string& path) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    REQUIRE(pipe(go_) == 0);
    child_ = fork();
    if (child_ == 0) _exit(body(path, ready[1]));
    ::close(ready[1]);
    char byte = 0;
    const bool said = read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
    REQUIRE(said);
  }
  ~HalfCopy() {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    ::close(go_[0]);
    ::close(go_[1]);
  }
  HalfCopy(const HalfCopy&) = delete;
  HalfCopy& operator=(const HalfCopy&) = delete;
  void die() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  // Does the other half, and ends.
  void finish() {
    const bool said = ::write(go_[1], "x", 1) == 1;
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = 0;
    CHECK(said);
    CHECK(status == 0);
  }

 private:
  int body(const std::string& path, int ready) const {
    const int fd = ::open(path.c_str(), O_RDWR | O_DIRECT);
    client::Attached attached;
    if (!client::attach_and_map(fd, &attached)) return errno;
    client::Extents* const extents =
        client::ask_for_extents(fd, attached.terms.pin_id, attached.pool->mapped.length);
    const auto number = doorbell::Attachment{attached.terms.attachment};
    doorbell::Slot* const slot = doorbell::claim(*attached.page, number);
    if (extents == nullptr || slot == nullptr ||
        !doorbell::take(*attached.page, *slot, extents->epoch))
      return EAGAIN;
    char byte = 'x';
    if (::write(ready, &byte, 1) != 1 || read(go_[0], &byte, 1) != 1) return EPIPE;
    std::memset(attached.pool->mapped.start + extents->at(0, kBlock).pool_offset, '#', kBlock);
    doorbell::give_back(*slot);
    return 0;
  }

  int go_[2] = {-1, -1};
  pid_t child_ = -1;
};

}  // namespace daxfs::test
