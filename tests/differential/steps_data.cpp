// Files: opened, read, written, closed.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

struct Buffer {
  alignas(kBlock) char bytes[kMostBytes];
};
char* buffer() {
  static const auto memory = std::make_unique<Buffer>();
  return memory->bytes;
}

// What is opened stays only if it is a file or a directory.
void keep(World& world, OpenFile& file) {
  struct stat status {};
  if (fstat(file.fd[kSubject], &status) != 0) world.differ("fstat of what was just opened");
  file.inode = status.st_ino;
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) world.forget(file);
}

int some_flags(Dice& dice) {
  static constexpr int kAccess[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR};
  int flags = dice.of(kAccess) | O_CLOEXEC | O_NONBLOCK;
  if (dice.one_in(2)) flags |= O_CREAT;
  if (dice.one_in(8)) flags |= O_EXCL;
  if (dice.one_in(6)) flags |= O_TRUNC;
  if (dice.one_in(5)) flags |= O_APPEND;
  if (dice.one_in(12)) flags |= O_NOFOLLOW;
  if (dice.one_in(20)) flags |= O_DIRECTORY;
  if (dice.one_in(20)) flags |= O_DSYNC;
  if (dice.one_in(30)) flags |= O_NOATIME;
  // O_CREAT with O_DIRECTORY is an error that changes with the kernel.
  if ((flags & O_DIRECTORY) != 0) flags &= ~O_CREAT;
  return flags;
}

void open_file(World& world, Dice& dice) {
  OpenFile& file = dice.of(world.files());
  const std::string name = some_path(dice);
  const int flags = some_flags(dice);
  const mode_t mode = dice.one_in(4) ? static_cast<mode_t>(dice.below(010000)) : 0666;
  const bool direct = dice.one_in(3) && world.inode_of(name) != 0;
  world.forget(file);
  world.about({name});
  Blocks blocks;
  if ((flags & O_TRUNC) != 0)
    blocks = {.inode = world.inode_of(name), .first = 0, .end = UINT64_MAX};
  const Answer answer = world.detaching(
      "open " + name + " flags " + std::to_string(flags) + " mode " + std::to_string(mode) +
          (direct ? " direct" : ""),
      blocks, [&](unsigned side) {
        const int more = direct && side == kSubject ? O_DIRECT : 0;
        Answer opened = answer_of(openat(world.root_fd(side), name.c_str(), flags | more, mode));
        file.fd[side] = static_cast<int>(opened.result);
        opened.result = std::min(opened.result, 0L);
        return opened;
      });
  world.refused(answer, name);
  if (answer.error != 0) return world.forget(file);
  file.direct = direct;
  keep(world, file);
}

void open_unnamed(World& world, Dice& dice) {
  OpenFile& file = dice.of(world.files());
  const std::string name = dice.one_in(3) ? "." : some_path(dice);
  const int flags =
      O_TMPFILE | O_CLOEXEC | (dice.one_in(4) ? O_WRONLY : O_RDWR) | (dice.one_in(6) ? O_EXCL : 0);
  world.forget(file);
  world.about({name});
  const Answer answer = world.both("tmpfile " + name, [&](unsigned side) {
    Answer opened = answer_of(openat(world.root_fd(side), name.c_str(), flags, 0664));
    file.fd[side] = static_cast<int>(opened.result);
    opened.result = std::min(opened.result, 0L);
    return opened;
  });
  if (answer.error != 0) return world.forget(file);
  keep(world, file);
}

void close_file(World& world, Dice& dice) {
  OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  world.log("close " + std::to_string(file.inode));
  world.forget(file);
}

// Where, and how much; whole blocks where the page cache is to be gone round.
struct Range {
  std::uint64_t offset, length;
};
Range some_range(World& world, Dice& dice, const OpenFile& file) {
  const std::uint64_t size = world.size_of(file.fd[kSubject]);
  const bool beyond = size == 0 || dice.one_in(6);
  Range range{dice.below(beyond ? kMostBytes / 2 : size),
              1 + dice.below(dice.one_in(4) ? 8 * kBlock : kBlock)};
  if (dice.one_in(4)) range.length = (range.length + kBlock - 1) / kBlock * kBlock;
  if (dice.one_in(4) || file.direct) range.offset = range.offset / kBlock * kBlock;
  if (file.direct) range.length = (range.length + kBlock - 1) / kBlock * kBlock;
  if (dice.one_in(100)) range.length = 0;
  range.length = std::min(range.length, kMostBytes - range.offset);
  return range;
}
std::string shown(const OpenFile& file, const Range& range) {
  return std::to_string(file.inode) + (file.direct ? " direct" : "") + " [" +
         std::to_string(range.offset) + ", +" + std::to_string(range.length) + ")";
}

void read_file(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open() || world.reads_differ(file)) return;
  const Range range = some_range(world, dice, file);
  const bool pieces = dice.one_in(6) && !file.direct;
  const bool moves = dice.one_in(3) && !file.direct;
  world.both((moves ? "read " : "pread ") + shown(file, range), [&](unsigned side) {
    const int fd = file.fd[side];
    const std::size_t half = pieces ? range.length / 2 : 0;
    const iovec parts[] = {{buffer(), half}, {buffer() + half, range.length - half}};
    const ssize_t got =
        moves ? readv(fd, parts, 2) : preadv(fd, parts, 2, static_cast<off_t>(range.offset));
    Answer answer = answer_of(got);
    if (got > 0) answer.data.assign(buffer(), static_cast<std::size_t>(got));
    return answer;
  });
}

void write_file(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  Range range = some_range(world, dice, file);
  const bool moves = dice.one_in(3) && !file.direct;
  const std::uint64_t salt = dice.next();
  // An append goes to the end, wherever that is.
  if (world.size_of(file.fd[kSubject]) + range.length > kMostBytes) return;
  const off_t at = lseek(file.fd[kSubject], 0, SEEK_CUR);
  if (moves && static_cast<std::uint64_t>(at) + range.length > kMostBytes) return;
  if (world.writes_differ(file, range.length)) return;
  fill(buffer(), range.length, salt);
  world.both((moves ? "write " : "pwrite ") + shown(file, range), [&](unsigned side) {
    const iovec part{buffer(), range.length};
    return answer_of(moves ? write(file.fd[side], buffer(), range.length)
                           : pwritev(file.fd[side], &part, 1, static_cast<off_t>(range.offset)));
  });
}

void seek_file(World& world, Dice& dice) {
  static constexpr int kFrom[] = {SEEK_SET, SEEK_CUR, SEEK_END};
  const OpenFile& file = world.some_file(dice);
  struct stat status {};
  if (world.reads_differ(file)) return;
  // An offset in a directory is each filesystem's own.
  if (!file.is_open() || fstat(file.fd[kSubject], &status) != 0 || !S_ISREG(status.st_mode)) return;
  const int whence = dice.of(kFrom);
  const off_t by = static_cast<off_t>(dice.below(kMostBytes / 4)) - (dice.one_in(3) ? 9000 : 0);
  world.both("lseek " + std::to_string(file.inode) + " " + std::to_string(by),
             [&](unsigned side) { return answer_of(lseek(file.fd[side], by, whence)); });
}

void sync_file(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  const bool data = dice.one_in(2);
  world.both("fsync " + std::to_string(file.inode), [&](unsigned side) {
    // What is compared is the answer; that ext4 writes to a disk would only cost time.
    if (side == kOracle) return Answer{};
    return answer_of(data ? fdatasync(file.fd[side]) : fsync(file.fd[side]));
  });
}

constexpr Step kSteps[] = {
    {"open", 16, open_file}, {"tmpfile", 3, open_unnamed}, {"close", 5, close_file},
    {"read", 16, read_file}, {"write", 24, write_file},    {"lseek", 3, seek_file},
    {"fsync", 2, sync_file},
};

}  // namespace

std::span<const Step> data_steps() { return kSteps; }

}  // namespace daxfs::differential
