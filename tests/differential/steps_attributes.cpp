// What a file is: its mode, owner, times, flags; and who may do what with it.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

constexpr int kFlags = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NOATIME_FL | FS_NODUMP_FL;

void look(World& world, Dice& dice) {
  const bool follow = dice.one_in(2);
  const std::string name = some_path(dice);
  world.both("stat " + name, [&](unsigned side) {
    struct stat status {};
    Answer answer = answer_of(
        fstatat(world.root_fd(side), name.c_str(), &status, follow ? 0 : AT_SYMLINK_NOFOLLOW));
    if (answer.error == 0)
      answer.data = described(status, world.has_times(world.inode_of(name, follow)));
    return answer;
  });
}

void look_at_open(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  world.both("fstat " + std::to_string(file.inode), [&](unsigned side) {
    struct stat status {};
    Answer answer = answer_of(fstat(file.fd[side], &status));
    answer.data = described(status, world.has_times(file.inode));
    return answer;
  });
}

void change_mode(World& world, Dice& dice) {
  static constexpr mode_t kModes[] = {0777, 0755, 0644, 0600, 04755, 02755, 06777, 01777, 02644};
  const mode_t mode = dice.one_in(3) ? static_cast<mode_t>(dice.below(010000)) : dice.of(kModes);
  const OpenFile& file = world.some_file(dice);
  if (file.is_open() && dice.one_in(3)) {
    world.both("fchmod " + std::to_string(file.inode) + " " + std::to_string(mode),
               [&](unsigned side) { return answer_of(fchmod(file.fd[side], mode)); });
    return;
  }
  const std::string name = some_path(dice);
  world.about({name});
  world.both("chmod " + name + " " + std::to_string(mode), [&](unsigned side) {
    return answer_of(fchmodat(world.root_fd(side), name.c_str(), mode, 0));
  });
}

// A chown(2) that leaves both as they are takes set-id bits away. FUSE does not tell it from a
// write, so that others than the owner are not refused; and where there are no such bits it says
// nothing. Nor does it from root's write to a file whose security.capability the kernel takes away
// before, which leaves the bits.
bool is_heard(World& world, bool is_protected, const std::string& oracle) {
  struct stat status {};
  const bool is_file = stat(oracle.c_str(), &status) == 0 && S_ISREG(status.st_mode);
  const bool is_written =
      is_file && getxattr(oracle.c_str(), "security.capability", nullptr, 0) >= 0;
  return world.is_root() && !is_protected && !is_written;
}

void change_owner(World& world, Dice& dice) {
  static constexpr uid_t kIds[] = {-1u, -1u, 0, 1001, 1002, 1003, 2000, 70000};
  const uid_t uid = dice.of(kIds);
  const gid_t gid = dice.of(kIds);
  const bool nothing = uid == -1u && gid == -1u;
  const std::string ids = " " + std::to_string(uid) + " " + std::to_string(gid);
  const OpenFile& file = world.some_file(dice);
  if (file.is_open() && dice.one_in(3)) {
    const std::string oracle = "/proc/self/fd/" + std::to_string(file.fd[kOracle]);
    if (nothing && !is_heard(world, world.is_protected(file), oracle)) return;
    world.both("fchown " + std::to_string(file.inode) + ids,
               [&](unsigned side) { return answer_of(fchown(file.fd[side], uid, gid)); });
    return;
  }
  const std::string name = some_path(dice);
  const int flags = dice.one_in(3) ? AT_SYMLINK_NOFOLLOW : 0;
  if (nothing && !is_heard(world, world.is_protected(name), world.path(kOracle, name))) return;
  world.about({name});
  world.both("chown " + name + ids, [&](unsigned side) {
    return answer_of(fchownat(world.root_fd(side), name.c_str(), uid, gid, flags));
  });
}

timespec some_time(Dice& dice) {
  if (dice.one_in(6)) return {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
  if (dice.one_in(6)) return {.tv_sec = 0, .tv_nsec = UTIME_NOW};
  return {
      .tv_sec = static_cast<time_t>(dice.below(1'200'000'000)) - (dice.one_in(8) ? 900'000'000 : 0),
      .tv_nsec = static_cast<long>(dice.below(1'000'000'000))};
}

void change_times(World& world, Dice& dice) {
  const timespec times[2] = {some_time(dice), some_time(dice)};
  const bool to_now = dice.one_in(8);
  const OpenFile& file = world.some_file(dice);
  // What a mapping has stored gives the file a time when it is written back.
  world.settle();
  if (file.is_open() && dice.one_in(3)) {
    world.both("futimens " + std::to_string(file.inode), [&](unsigned side) {
      return answer_of(futimens(file.fd[side], to_now ? nullptr : times));
    });
    return;
  }
  const std::string name = some_path(dice);
  const int flags = dice.one_in(3) ? AT_SYMLINK_NOFOLLOW : 0;
  world.about({name});
  world.both("utimens " + name, [&](unsigned side) {
    return answer_of(utimensat(world.root_fd(side), name.c_str(), to_now ? nullptr : times, flags));
  });
}

// The kernel does not see FUSE's flags: there access(2) lets write what is protected
// (docs/limits.md).
void ask_access(World& world, Dice& dice) {
  const std::string name = some_path(dice);
  const int mode = static_cast<int>(dice.below(8));
  if ((mode & W_OK) != 0 && world.is_protected(name)) return;
  world.both("access " + name + " " + std::to_string(mode), [&](unsigned side) {
    return answer_of(syscall(SYS_faccessat2, world.root_fd(side), name.c_str(), mode, AT_EACCESS));
  });
}

// Opened as root, so that the flags of what nobody may read are changed, too.
int opened(World& world, unsigned side, const std::string& name) {
  return openat(world.root_fd(side), name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
}

bool has_flags(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode));
}

void set_flags_of(World& world, const std::string& name, const User& user, int flags) {
  world.become_root();
  const std::array<int, 2> fd{opened(world, kSubject, name), opened(world, kOracle, name)};
  const std::uint64_t inode = world.inode_of(name, false);
  if (fd[kSubject] >= 0 && fd[kOracle] >= 0 && has_flags(fd[kSubject])) {
    // What is stored would be refused when it is written back.
    world.settle();
    world.become(user);
    const bool protects = (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) != 0;
    // A file that is pinned for writing changes all the same: ETXTBSY, and nothing for the oracle.
    if (!(protects && world.pins().pinned_for_writing(inode))) {
      world.both("chattr " + name + " " + std::to_string(flags), [&](unsigned side) {
        int now = 0;
        if (const Answer got = answer_of(ioctl(fd[side], FS_IOC_GETFLAGS, &now)); got.error != 0)
          return got;
        now = (now & ~kFlags) | flags;
        return answer_of(ioctl(fd[side], FS_IOC_SETFLAGS, &now));
      });
    }
  }
  for (const int one : fd)
    if (one >= 0) close(one);
}

void change_flags(World& world, Dice& dice) {
  int flags = 0;
  if (dice.one_in(3)) flags |= FS_IMMUTABLE_FL;
  if (dice.one_in(3)) flags |= FS_APPEND_FL;
  if (dice.one_in(3)) flags |= FS_NOATIME_FL;
  if (dice.one_in(3)) flags |= FS_NODUMP_FL;
  set_flags_of(world, some_path(dice), some_user(dice), flags);
}

// Else everything would be protected soon.
void clear_flags(World& world, Dice& dice) {
  for (int i = 0; i < 4; ++i) set_flags_of(world, some_path(dice), kUsers[0], 0);
}

void read_flags(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  world.both("lsattr " + std::to_string(file.inode), [&](unsigned side) {
    int flags = 0;
    Answer answer = answer_of(ioctl(file.fd[side], FS_IOC_GETFLAGS, &flags));
    answer.data = std::to_string(flags & kFlags);
    return answer;
  });
}

constexpr Step kSteps[] = {
    {"stat", 8, look},           {"fstat", 4, look_at_open},      {"chmod", 8, change_mode},
    {"chown", 7, change_owner},  {"utimens", 6, change_times},    {"access", 4, ask_access},
    {"chattr", 2, change_flags}, {"clear flags", 3, clear_flags}, {"lsattr", 1, read_flags},
};

}  // namespace

std::span<const Step> attribute_steps() { return kSteps; }

}  // namespace daxfs::differential
