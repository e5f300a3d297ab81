// The kernel's side of a FUSE connection, in-process: a real libfuse session with the daemon's own
// operations and wire hooks, over a socket pair instead of /dev/fuse. Like the kernel it names only
// nodes and open files that it was told of, and ends names with a NUL; everything else may be
// anything.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/filesystem.h"
#include "tests/fuzz/small_pool.h"

namespace daxfs::fuzz {

// One that was opened; `fh` is 0 for a directory.
struct Handle {
  std::uint64_t node = 0;
  std::uint64_t fh = 0;
  bool directory = false;
};

// What was answered, if it was answered at once.
struct Answer {
  std::int32_t error = 0;
  std::string body;
};

struct Sender {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t pid = 0;
};

class Kernel {
 public:
  // Sends INIT, offering all features if `modern`.
  Kernel(Filesystem& filesystem, KernelRelay& relay, bool modern);
  // Ends like an unmount with files still open: whoever waits is answered, and every request must
  // have had its one answer. The filesystem is unmounted then.
  ~Kernel();

  bool is_modern() const { return is_modern_; }

  // One request; its number. Messages that come back are looked at: what they tell of nodes and
  // files is remembered.
  std::uint64_t send(std::uint32_t opcode, std::uint64_t node, std::string_view body,
                     const Sender& sender);
  std::optional<Answer> answer(std::uint64_t request) const;
  std::uint64_t last_request() const { return next_request_ - 2; }

  // The root always comes first.
  const std::vector<std::uint64_t>& nodes() const { return nodes_; }
  const std::vector<Handle>& handles() const { return handles_; }
  // Gives back all that the kernel counts of one (not of the root).
  void forget(std::size_t node, const Sender& sender);
  void release(std::size_t handle, const Sender& sender);
  // Either does nothing while a request needs it: neither does the kernel.

  // So that no answer is larger than what the socket takes.
  static constexpr std::uint32_t kMostBytes = 32 << 10;

 private:
  struct Session;
  struct Pending {
    std::uint32_t opcode;
    std::uint64_t node;
    std::uint64_t fh;  // of an open file, or 0
    bool answered = false;
    Answer answer;
  };

  void collect();
  void note(std::uint64_t request, Pending& pending);
  void note_entry(const fuse_entry_out& entry);
  bool waits_for_none(const std::function<bool(const Pending&)>& such);
  void require_all_answered() const;

  Filesystem& filesystem_;
  KernelRelay& relay_;
  const bool is_modern_;
  std::unique_ptr<Session> session_;
  std::uint64_t next_request_ = 2;  // even, as the kernel numbers them
  std::map<std::uint64_t, Pending> pending_;
  unsigned interrupts_ = 0;
  std::vector<std::uint64_t> nodes_{FUSE_ROOT_ID};
  std::map<std::uint64_t, std::uint64_t> lookups_;
  std::vector<Handle> handles_;
};

// The bytes of a plain struct.
template <class T>
std::string_view bytes_of(const T& object) {
  return {reinterpret_cast<const char*>(&object), sizeof object};
}

}  // namespace daxfs::fuzz
