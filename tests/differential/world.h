// What the steps act on: a directory of a daxfs mount (the subject) and one of an ext4 (the
// oracle), in which everything is done twice, and all answers are compared.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/differential/dice.h"
#include "tests/differential/pins.h"

namespace daxfs::differential {

inline constexpr unsigned kSubject = 0;
inline constexpr unsigned kOracle = 1;
inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kMostBytes = 256 << 10;  // of a file

struct Difference : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a call has said, and what else there is to compare.
struct Answer {
  long result = 0;
  int error = 0;
  std::string data;
  bool operator==(const Answer&) const = default;
};
// Of a call that has just returned `result`.
Answer answer_of(long result);
using Call = std::function<Answer(unsigned side)>;

// A file that is open in both; -1: none.
struct OpenFile {
  std::array<int, 2> fd{-1, -1};
  std::uint64_t inode = 0;  // the subject's
  bool direct = false;      // in the subject: with a loop device it would be most of the time
  bool is_open() const { return fd[kSubject] >= 0; }
};

struct Mapping {
  std::array<char*, 2> at{};
  std::uint64_t length = 0;
  std::uint64_t inode = 0;
  std::array<int, 2> fd{-1, -1};  // of its own
  bool writable = false;
};

struct User {
  uid_t uid;
  gid_t gid;
  std::array<gid_t, 2> groups;
};
inline constexpr User kUsers[] = {
    {0, 0, {0, 0}}, {1001, 1001, {1001, 2000}}, {1002, 1002, {2000, 2000}}, {1003, 2000, {}}};

class World {
 public:
  // Two empty directories. `keeps_writes`: the mount has cache=writeback.
  World(std::array<std::string, 2> roots, Holder& holder, bool keeps_writes);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // The calls that follow are this user's. Cheap if they were before.
  void become(const User& user);
  void become_root() { become(kUsers[0]); }
  bool is_root() const { return user_ == kUsers; }

  // Does it in both; the answers must be the same.
  Answer both(const std::string& what, const Call& call);
  // The same where blocks may leave a file: where pins are in the way, the policy decides, and a
  // refused call is not asked of the oracle.
  Answer detaching(const std::string& what, const Blocks& blocks, const Call& call);
  // The names that the step is about: where chattr(1) protects one of them, which of several errors
  // is told is the kernel's order on ext4, and the daemon's in daxfs.
  void about(std::vector<std::string> names) { about_ = std::move(names); }
  // A truncate or punch that was refused may have taken security.capability away: mostly the kernel
  // does, before it asks (docs/limits.md). Away with it in both.
  void refused(const Answer& answer, const std::string& name);
  void refused(const Answer& answer, const OpenFile& file);
  void log(const std::string& line);
  [[noreturn]] void differ(const std::string& what);

  const std::string& root(unsigned side) const { return roots_[side]; }
  int root_fd(unsigned side) const { return root_fds_[side]; }
  std::string path(unsigned side, const std::string& name) const {
    return roots_[side] + "/" + name;
  }
  // Of the subject, seen as root; the user stays. 0: there is none.
  std::uint64_t inode_of(const std::string& name, bool follow = true);
  bool is_directory(const std::string& name);
  std::uint64_t size_of(int fd);
  // Whether chattr(1) protects the file, or the directory that it is in. The oracle is asked.
  bool is_protected(const std::string& name);
  bool is_protected(const OpenFile& file);
  // A descriptor that was opened before chattr +a, and without O_APPEND, writes on on ext4, and no
  // more in daxfs (docs/decisions.md). The kernel does not ask FUSE about writes of nothing.
  bool writes_differ(const OpenFile& file, std::uint64_t length);

  // With cache=writeback the kernel asks for attributes before it reads at the end, as before a
  // write: refused where chattr protects the file (docs/limits.md).
  bool keeps_writes() const { return keeps_writes_; }
  bool reads_differ(const OpenFile& file) { return keeps_writes_ && is_protected(file); }

  // What a mapping has stored into, and nobody has synced: its times are the kernel's business.
  void store(std::uint64_t inode) { stored_.insert(inode); }
  // With cache=writeback all times are the kernel's (docs/cache.md).
  bool has_times(std::uint64_t inode) const { return !keeps_writes_ && !stored_.contains(inode); }
  // Writes all of that back.
  void settle();
  void forget(OpenFile& file);
  void unmap(Mapping& mapping);

  Pins& pins() { return pins_; }
  std::array<OpenFile, 8>& files() { return files_; }
  // One that is open, mostly.
  OpenFile& some_file(Dice& dice);
  std::array<Mapping, 3>& mappings() { return mappings_; }
  const std::deque<std::string>& last_lines() const { return lines_; }

 private:
  Answer compared(const Answer& subject, const Call& call);
  bool is_allowed(const Answer& subject, const Answer& oracle);

  const std::array<std::string, 2> roots_;
  std::array<int, 2> root_fds_;
  const bool keeps_writes_;
  Pins pins_;
  const User* user_;
  std::array<OpenFile, 8> files_;
  std::array<Mapping, 3> mappings_;
  std::set<std::uint64_t> stored_;
  std::vector<std::string> about_;
  std::deque<std::string> lines_;
};

// A name in the directory, of one to three components; the same few again and again.
std::string some_path(Dice& dice);
const User& some_user(Dice& dice);
// Zero to 0xff, another for each salt.
void fill(char* out, std::size_t length, std::uint64_t salt);

}  // namespace daxfs::differential
