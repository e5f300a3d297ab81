// Names: made, linked, moved, taken away, listed.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

mode_t some_mode(Dice& dice) {
  static constexpr mode_t kModes[] = {0777, 0755, 0700, 0644, 0666, 01777, 02775, 06755, 0};
  return dice.one_in(4) ? static_cast<mode_t>(dice.below(010000)) : dice.of(kModes);
}

void set_umask(World& world, Dice& dice) {
  static constexpr mode_t kMasks[] = {0, 022, 027, 077};
  const mode_t mask = dice.of(kMasks);
  world.log("umask " + std::to_string(mask));
  umask(mask);
}

void make_directory(World& world, Dice& dice) {
  const std::string name = some_path(dice);
  const mode_t mode = some_mode(dice) | (dice.one_in(2) ? 0700 : 0);
  world.about({name});
  world.both("mkdir " + name + " " + std::to_string(mode), [&](unsigned side) {
    return answer_of(mkdirat(world.root_fd(side), name.c_str(), mode));
  });
}

void make_node(World& world, Dice& dice) {
  static constexpr mode_t kTypes[] = {S_IFIFO, S_IFSOCK, S_IFREG, S_IFCHR, S_IFBLK};
  const std::string name = some_path(dice);
  const mode_t mode = dice.of(kTypes) | (some_mode(dice) & 07777);
  const dev_t device = dice.one_in(2) ? makedev(1, 3) : 0;
  world.about({name});
  world.both("mknod " + name + " " + std::to_string(mode), [&](unsigned side) {
    return answer_of(mknodat(world.root_fd(side), name.c_str(), mode, device));
  });
}

void make_symlink(World& world, Dice& dice) {
  // Nothing that leads out of the directory.
  std::string target = dice.one_in(3) ? "./" + some_path(dice) : some_path(dice);
  if (dice.one_in(20)) target = std::string(1 + dice.below(1000), 'x');
  if (dice.one_in(100)) target.clear();
  const std::string name = some_path(dice);
  world.about({name});
  world.both("symlink " + target + " " + name, [&](unsigned side) {
    return answer_of(symlinkat(target.c_str(), world.root_fd(side), name.c_str()));
  });
}

void read_symlink(World& world, Dice& dice) {
  const std::string name = some_path(dice);
  const std::size_t room = dice.one_in(4) ? 1 + dice.below(8) : 4096;
  world.both("readlink " + name, [&](unsigned side) {
    std::string text(room, '\0');
    Answer answer =
        answer_of(readlinkat(world.root_fd(side), name.c_str(), text.data(), text.size()));
    text.resize(answer.error != 0 ? 0 : static_cast<std::size_t>(answer.result));
    answer.data = text;
    return answer;
  });
}

void make_link(World& world, Dice& dice) {
  const std::string from = some_path(dice);
  const std::string name = some_path(dice);
  const int flags = dice.one_in(4) ? AT_SYMLINK_FOLLOW : 0;
  world.about({from, name});
  world.both("link " + from + " " + name, [&](unsigned side) {
    const int root = world.root_fd(side);
    return answer_of(linkat(root, from.c_str(), root, name.c_str(), flags));
  });
}

void link_open_file(World& world, Dice& dice) {
  OpenFile& file = dice.of(world.files());
  const std::string name = some_path(dice);
  if (!file.is_open()) return;
  const bool by_proc = dice.one_in(2);
  world.about({name});
  const bool protects = world.is_protected(file);
  if (protects) world.about({name, "."});
  world.both("link open file " + name, [&](unsigned side) {
    const int root = world.root_fd(side);
    if (!by_proc) return answer_of(linkat(file.fd[side], "", root, name.c_str(), AT_EMPTY_PATH));
    const std::string open = "/proc/self/fd/" + std::to_string(file.fd[side]);
    return answer_of(linkat(AT_FDCWD, open.c_str(), root, name.c_str(), AT_SYMLINK_FOLLOW));
  });
}

// All blocks of the file that the rename replaces, if that is its last name.
Blocks replaced(World& world, const std::string& from, const std::string& name, unsigned flags) {
  if ((flags & (RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return {};
  const std::uint64_t inode = world.inode_of(name, false);
  if (inode == 0 || inode == world.inode_of(from, false)) return {};
  return {.inode = inode, .first = 0, .end = UINT64_MAX};
}

void rename_file(World& world, Dice& dice) {
  static constexpr unsigned kFlags[] = {0,
                                        0,
                                        0,
                                        0,
                                        RENAME_NOREPLACE,
                                        RENAME_EXCHANGE,
                                        RENAME_WHITEOUT,
                                        RENAME_NOREPLACE | RENAME_EXCHANGE,
                                        RENAME_NOREPLACE | RENAME_WHITEOUT,
                                        8};
  const std::string from = some_path(dice);
  const std::string name = some_path(dice);
  unsigned flags = dice.of(kFlags);
  // A whiteout over a directory that is not empty fails on ext4 when it has changed times already.
  if ((flags & RENAME_WHITEOUT) != 0 && world.is_directory(name)) flags = 0;
  world.about({from, name});
  Blocks blocks = replaced(world, from, name, flags);
  struct stat status {};
  if (blocks.inode != 0 &&
      fstatat(world.root_fd(kSubject), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      status.st_nlink > 1)
    blocks = {};
  world.detaching(
      "rename " + from + " " + name + " flags " + std::to_string(flags), blocks,
      [&](unsigned side) {
        const int root = world.root_fd(side);
        return answer_of(syscall(SYS_renameat2, root, from.c_str(), root, name.c_str(), flags));
      });
}

void remove_name(World& world, Dice& dice, int flags) {
  const std::string name = some_path(dice);
  world.about({name});
  world.both((flags != 0 ? "rmdir " : "unlink ") + name, [&](unsigned side) {
    return answer_of(unlinkat(world.root_fd(side), name.c_str(), flags));
  });
}

void unlink_file(World& world, Dice& dice) { remove_name(world, dice, 0); }
void remove_directory(World& world, Dice& dice) { remove_name(world, dice, AT_REMOVEDIR); }

Answer listing(int root, const std::string& name) {
  const int fd = openat(root, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Answer answer = answer_of(fd);
  if (fd < 0) return answer;
  answer.result = 0;
  DIR* directory = fdopendir(fd);
  std::vector<std::string> lines;
  while (const dirent* entry = readdir(directory))
    lines.push_back(std::string(entry->d_name) + ":" + std::to_string(entry->d_type) + " ");
  closedir(directory);
  std::ranges::sort(lines);
  for (const std::string& line : lines) answer.data += line;
  return answer;
}

void list(World& world, Dice& dice) {
  const std::string name = dice.one_in(6) ? "." : some_path(dice);
  world.both("list " + name, [&](unsigned side) { return listing(world.root_fd(side), name); });
}

constexpr Step kSteps[] = {
    {"umask", 1, set_umask},
    {"mkdir", 10, make_directory},
    {"mknod", 3, make_node},
    {"symlink", 4, make_symlink},
    {"readlink", 2, read_symlink},
    {"link", 5, make_link},
    {"link open", 3, link_open_file},
    {"rename", 10, rename_file},
    {"unlink", 8, unlink_file},
    {"rmdir", 4, remove_directory},
    {"list", 4, list},
};

}  // namespace

std::span<const Step> name_steps() { return kSteps; }

}  // namespace daxfs::differential
