// Holders of pins, and the operations that meet them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"

namespace daxfs::test {

// How a pin ends.
enum class End { unpin, close, terminate, kill };
inline constexpr std::array kEnds{End::unpin, End::close, End::terminate, End::kill};
const char* name_of(End end);

// daxfs-hold, holding.
class HoldProcess {
 public:
  HoldProcess(const std::string& path, std::uint64_t offset, std::uint64_t length,
              const std::vector<std::string>& more = {});
  Process& process() { return process_; }
  // SIGTERM, and what became of it.
  Finished stop();

 private:
  Process process_;
};

// A long-term pin that will end in the given way. It is held by this process and mapped through
// libdaxfs (unpin, close), or by a daxfs-hold that reads (terminate, kill).
class Held {
 public:
  Held(const std::string& path, std::uint64_t offset, std::uint64_t length, End end);
  ~Held();
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  // The pinned memory must be as it was when the pin was taken.
  void check();
  // Checks, then lets go in the way that was said. The descriptor that took an unpinned pin stays.
  void end();
  void close() { fd_ = UniqueFd(); }

 private:
  End end_;
  UniqueFd fd_;
  std::uint64_t pin_ = 0;
  char* view_ = nullptr;
  std::size_t length_ = 0;
  std::string content_;
  std::optional<HoldProcess> process_;
};

// Replaces the file "f" by a new one of so many blocks (in one piece, or one extent a block), and
// makes sure of the file "source" that is to be renamed over it.
void make_victim(const Mount& mount, std::size_t blocks, bool fragmented);

// Operations that take blocks away from a file "f"; each returns an errno.
struct Detach {
  const char* name;
  int (*act)(const Mount& mount);
  bool keeps_size;
  bool replaces;  // the file itself goes
};
// rename-over needs a file "source".
extern const std::array<Detach, 5> kDetaches;

int punch(const std::string& path, std::uint64_t offset, std::uint64_t length);

}  // namespace daxfs::test
