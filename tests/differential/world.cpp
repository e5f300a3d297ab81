#include "tests/differential/world.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace daxfs::differential {
namespace {

constexpr std::size_t kRemembered = 400;
constexpr int kProtects = FS_IMMUTABLE_FL | FS_APPEND_FL;

int flags_of(int fd) {
  int flags = 0;
  return ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 ? flags : 0;
}

int flags_at(int directory, const std::string& name) {
  const int fd = openat(directory, name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return 0;
  const int flags = flags_of(fd);
  close(fd);
  return flags;
}

std::string above(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  return slash == name.npos ? "." : name.substr(0, slash);
}

// Of the file, of the directory that it is in, and of those that a link in its place leads to: a
// file that is not there is made where the link says.
int flags_around(int directory, std::string name) {
  int flags = 0;
  for (int links = 0; links < 8; ++links) {
    flags |= flags_at(directory, name) | flags_at(directory, above(name));
    char target[PATH_MAX];
    const ssize_t length = readlinkat(directory, name.c_str(), target, sizeof target);
    if (length <= 0) break;
    name = above(name) + "/" + std::string(target, static_cast<std::size_t>(length));
  }
  return flags;
}

std::string shown(const Answer& answer) {
  constexpr std::size_t kShown = 300;
  std::string text = answer.error != 0 ? std::string(strerrorname_np(answer.error))
                                       : std::to_string(answer.result);
  for (std::size_t i = 0; i < std::min(answer.data.size(), kShown); ++i) {
    const char byte = answer.data[i];
    if (i == 0) text += " ";
    text += byte >= ' ' && byte <= '~' ? std::string(1, byte) : "\\" + std::to_string(byte & 0xff);
  }
  return text;
}

}  // namespace

Answer answer_of(long result) { return {result, result < 0 ? errno : 0, {}}; }

World::World(std::array<std::string, 2> roots, Holder& holder, bool keeps_writes)
    : roots_(std::move(roots)),
      root_fds_{open(roots_[0].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                open(roots_[1].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)},
      keeps_writes_(keeps_writes),
      pins_(holder, root_fds_[kSubject]),
      user_(kUsers) {}

World::~World() {
  become_root();
  for (Mapping& mapping : mappings_) unmap(mapping);
  for (OpenFile& file : files_) forget(file);
  pins_.drop_all();
  for (const int fd : root_fds_) close(fd);
}

void World::become(const User& user) {
  if (&user == user_) return;
  bool done = setresuid(-1u, 0, -1u) == 0;
  const bool plain = user.groups[0] == 0;
  done = done && setgroups(plain ? 0 : user.groups.size(), user.groups.data()) == 0 &&
         setresgid(-1u, user.gid, -1u) == 0 && setresuid(-1u, user.uid, -1u) == 0;
  // Else /proc/self is root's.
  prctl(PR_SET_DUMPABLE, 1);
  if (!done) throw std::runtime_error("cannot become another user");
  user_ = &user;
}

void World::log(const std::string& line) {
  lines_.push_back(line);
  if (lines_.size() > kRemembered) lines_.pop_front();
}

void World::differ(const std::string& what) { throw Difference(what); }

Answer World::compared(const Answer& subject, const Call& call) {
  const Answer oracle = call(kOracle);
  lines_.back() += " = " + shown(subject);
  if (subject == oracle || is_allowed(subject, oracle)) return subject;
  differ("daxfs says " + shown(subject) + ", and ext4 " + shown(oracle));
}

bool World::is_allowed(const Answer& subject, const Answer& oracle) {
  if (subject.error == 0 || oracle.error == 0) return false;
  if (subject.error != EPERM && oracle.error != EPERM) return false;
  return std::ranges::any_of(about_, [&](const auto& name) { return is_protected(name); }) ||
         std::ranges::any_of(files_, [&](const OpenFile& file) { return is_protected(file); });
}

Answer World::both(const std::string& what, const Call& call) {
  log("uid " + std::to_string(user_->uid) + ": " + what);
  return compared(call(kSubject), call);
}

Answer World::detaching(const std::string& what, const Blocks& blocks, const Call& call) {
  if (!pins_.meet(blocks)) return both(what, call);
  log("uid " + std::to_string(user_->uid) + ": " + what + " (pins in the way, " +
      pins_.policy().words + ")");
  const User& user = *user_;
  pins_.give_way(blocks);
  Answer subject = call(kSubject);
  // What stops a process for a while (a debugger, a cgroup's freezer) ends its wait as a signal
  // does; nothing was done then.
  if (subject.error == EINTR && pins_.policy().waits) subject = call(kSubject);
  become_root();  // a time of the oracle may be set
  pins_.settle(blocks, subject.error == 0);
  become(user);
  if (subject.error == ETXTBSY && pins_.policy().refuses) {
    lines_.back() += " = ETXTBSY";
    return subject;
  }
  if (subject.error == 0 && pins_.policy().refuses) differ("nothing was refused");
  return compared(subject, call);
}

bool World::is_directory(const std::string& name) {
  const User& user = *user_;
  become_root();
  struct stat status {};
  const bool there = fstatat(root_fds_[kSubject], name.c_str(), &status, 0) == 0;
  become(user);
  return there && S_ISDIR(status.st_mode);
}

void World::refused(const Answer& answer, const std::string& name) {
  if (answer.error != ETXTBSY) return;
  become_root();
  for (const unsigned side : {kSubject, kOracle})
    removexattr(path(side, name).c_str(), "security.capability");
}

void World::refused(const Answer& answer, const OpenFile& file) {
  if (answer.error != ETXTBSY) return;
  become_root();
  for (const int fd : file.fd) fremovexattr(fd, "security.capability");
}

std::uint64_t World::inode_of(const std::string& name, bool follow) {
  const User& user = *user_;
  become_root();
  struct stat status {};
  const int flags = follow ? 0 : AT_SYMLINK_NOFOLLOW;
  const bool there = fstatat(root_fds_[kSubject], name.c_str(), &status, flags) == 0;
  become(user);
  return there && S_ISREG(status.st_mode) ? status.st_ino : 0;
}

std::uint64_t World::size_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

bool World::is_protected(const std::string& asked) {
  std::string name = asked;
  while (name.ends_with("/") || name.ends_with("/.")) name.pop_back();
  const User& user = *user_;
  become_root();
  const int flags = flags_around(root_fds_[kOracle], name);
  become(user);
  return (flags & kProtects) != 0;
}

bool World::is_protected(const OpenFile& file) {
  return file.is_open() && (flags_of(file.fd[kOracle]) & kProtects) != 0;
}

bool World::writes_differ(const OpenFile& file, std::uint64_t length) {
  const int flags = flags_of(file.fd[kOracle]);
  return (flags & FS_APPEND_FL) != 0 || (length == 0 && (flags & kProtects) != 0);
}

void World::settle() {
  for (Mapping& mapping : mappings_) {
    if (mapping.at[kSubject] == nullptr) continue;
    for (char* at : mapping.at) msync(at, mapping.length, MS_SYNC);
  }
  stored_.clear();
}

OpenFile& World::some_file(Dice& dice) {
  for (int tries = 0; tries < 3; ++tries) {
    OpenFile& file = dice.of(files_);
    if (file.is_open()) return file;
  }
  return dice.of(files_);
}

void World::forget(OpenFile& file) {
  for (int& fd : file.fd)
    if (fd >= 0) close(fd);
  file = OpenFile();
}

void World::unmap(Mapping& mapping) {
  if (mapping.at[kSubject] == nullptr) return;
  for (char* at : mapping.at) {
    msync(at, mapping.length, MS_SYNC);
    munmap(at, mapping.length);
  }
  for (const int fd : mapping.fd) close(fd);
  mapping = Mapping();
}

std::string some_path(Dice& dice) {
  static constexpr const char* kNames[] = {"a", "b", "c", "d", "e"};
  std::string path = dice.of(kNames);
  for (std::uint64_t depth = dice.one_in(2) ? 0 : 1 + dice.below(2); depth > 0; --depth)
    path += std::string("/") + dice.of(kNames);
  if (dice.one_in(300)) path += "/" + std::string(255 + dice.below(2), 'n');
  if (dice.one_in(300)) path += "/.";
  if (dice.one_in(300)) path += "/";
  return path;
}

const User& some_user(Dice& dice) { return kUsers[dice.one_in(2) ? 0 : dice.below(4)]; }

void fill(char* out, std::size_t length, std::uint64_t salt) {
  for (std::size_t i = 0; i < length; ++i)
    out[i] = static_cast<char>(1 + (salt + i * 7 + (i >> 8)) % 255);
}

}  // namespace daxfs::differential
