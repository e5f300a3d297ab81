// Pins on the subject's files: a process that holds them, and what is known of them here.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace daxfs::differential {

inline constexpr std::size_t kMostPins = 6;
inline constexpr std::uint64_t kMostPinned = 64;  // blocks of a pin

// Blocks of a file that a call takes away; inode 0: none.
struct Blocks {
  std::uint64_t inode = 0;
  std::uint64_t first = 0;
  std::uint64_t end = 0;
};

// A process that pins what it is told to. Gone at the end.
class Holder {
 public:
  Holder();
  ~Holder();
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  struct Ask {
    enum class Kind : std::uint8_t { pin, unpin, unpin_late, settle } kind;
    std::size_t slot;
    std::uint64_t offset, length;
    std::uint32_t flags;
    bool lease;  // and gives way when it is broken
    std::uint32_t delay_us;
    char path[600];  // with a component of 255
  };
  // errno. unpin_late answers nothing: settle waits for it.
  int ask(const Ask& ask);
  // Bit n: slot n holds something still. All late unpins have come.
  std::uint64_t settle();

 private:
  UniqueFd socket_;
  pid_t pid_ = -1;
};

// What a mount does with pins in the way; the words that switch it to that.
struct Policy {
  const char* words;
  bool refuses;  // the call is refused at last
  bool waits;    // for holders that go
};

class Pins {
 public:
  // `directory`: of the subject, open for ioctls.
  Pins(Holder& holder, int directory) : holder_(holder), directory_(directory) {}
  ~Pins() { drop_all(); }
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  // errno. `oracle`: the same file of the oracle, whose time is set when a write pin goes.
  int take(const std::string& path, std::uint64_t inode, const Blocks& blocks, bool write,
           bool lease, int oracle);
  bool has_room() const;
  // One of them; says which.
  std::string drop(std::uint64_t which);
  void drop_all();
  // errno.
  int switch_to(const Policy& policy);
  const Policy& policy() const { return *policy_; }

  bool meet(const Blocks& blocks) const;
  bool pinned_for_writing(std::uint64_t inode) const;
  // Before the call: those that are in its way will go soon, where the policy waits for that.
  void give_way(const Blocks& blocks);
  // After it: notes what is gone. `left`: the blocks have left the file.
  void settle(const Blocks& blocks, bool left);

 private:
  struct Pin {
    std::uint64_t inode = 0;
    std::uint64_t first = 0;
    std::uint64_t blocks = 0;  // bit n: block first + n is the file's still
    bool write = false;
    bool lease = false;
    UniqueFd oracle;
    bool is_there() const { return inode != 0; }
    std::uint64_t within(const Blocks& range) const;
  };
  void gone(Pin& pin);

  Holder& holder_;
  const int directory_;
  const Policy* policy_ = nullptr;
  std::array<Pin, kMostPins> pins_;
};

extern const std::array<Policy, 7> kPolicies;

}  // namespace daxfs::differential
