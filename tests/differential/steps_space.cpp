// Space: truncated, allocated, punched, zeroed, copied, looked for.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

std::uint64_t some_size(World& world, Dice& dice, int fd) {
  const std::uint64_t size = fd >= 0 ? world.size_of(fd) : kMostBytes / 8;
  std::uint64_t to = dice.one_in(2) ? dice.below(size + 1) : dice.below(kMostBytes / 2);
  if (dice.one_in(3)) to = to / kBlock * kBlock;
  if (dice.one_in(8)) to = size;
  if (dice.one_in(8)) to = 0;
  return to;
}

// What a truncate to this size takes away.
Blocks behind(std::uint64_t inode, std::uint64_t size) {
  return {.inode = inode, .first = (size + kBlock - 1) / kBlock, .end = UINT64_MAX};
}

void truncate_open(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  if (!file.is_open()) return;
  const std::uint64_t size = some_size(world, dice, file.fd[kSubject]);
  const Answer answer = world.detaching(
      "ftruncate " + std::to_string(file.inode) + " " + std::to_string(size),
      behind(file.inode, size),
      [&](unsigned side) { return answer_of(ftruncate(file.fd[side], static_cast<off_t>(size))); });
  world.refused(answer, file);
}

void truncate_name(World& world, Dice& dice) {
  const std::string name = some_path(dice);
  const std::uint64_t size = some_size(world, dice, -1);
  world.about({name});
  const Answer answer = world.detaching(
      "truncate " + name + " " + std::to_string(size), behind(world.inode_of(name), size),
      [&](unsigned side) {
        return answer_of(truncate(world.path(side, name).c_str(), static_cast<off_t>(size)));
      });
  world.refused(answer, name);
}

void allocate(World& world, Dice& dice) {
  static constexpr int kModes[] = {0,
                                   0,
                                   FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_ZERO_RANGE,
                                   FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                   FALLOC_FL_COLLAPSE_RANGE,
                                   FALLOC_FL_INSERT_RANGE,
                                   FALLOC_FL_PUNCH_HOLE,
                                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE,
                                   0x4000};
  const OpenFile& file = world.some_file(dice);
  // (ext4 refuses to take set-id bits of an append-only file away, and so to allocate.)
  if (!file.is_open() || world.writes_differ(file, 1)) return;
  const int mode = dice.of(kModes);
  const std::uint64_t size = world.size_of(file.fd[kSubject]);
  const bool beyond = size == 0 || dice.one_in(5);
  std::uint64_t offset = dice.below(beyond ? kMostBytes / 2 : size);
  std::uint64_t length = dice.one_in(40) ? 0 : 1 + dice.below(dice.one_in(3) ? 12 * kBlock : 5000);
  if (dice.one_in(3)) offset = offset / kBlock * kBlock;
  if (dice.one_in(3)) length = (length + kBlock - 1) / kBlock * kBlock;
  const std::string what = "fallocate " + std::to_string(file.inode) + " mode " +
                           std::to_string(mode) + " [" + std::to_string(offset) + ", +" +
                           std::to_string(length) + ")";
  const Call call = [&](unsigned side) {
    return answer_of(
        fallocate(file.fd[side], mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
  };
  // FUSE has no such modes: nothing is done in either.
  if ((mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0) {
    if (call(kSubject).result == 0) world.differ(what + ": done by daxfs");
    return;
  }
  Blocks blocks;
  if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
    blocks = {.inode = file.inode,
              .first = (offset + kBlock - 1) / kBlock,
              .end = (offset + length) / kBlock};
  world.refused(world.detaching(what, blocks, call), file);
}

void copy_range(World& world, Dice& dice) {
  const OpenFile& from = world.some_file(dice);
  const OpenFile& to = world.some_file(dice);
  if (!from.is_open() || !to.is_open()) return;
  const std::uint64_t length = dice.below(dice.one_in(3) ? 16 * kBlock : 2 * kBlock);
  const std::uint64_t source = dice.below(world.size_of(from.fd[kSubject]) + 1);
  const std::uint64_t target = dice.below(kMostBytes / 2);
  // Where there is nothing to copy, nobody is asked.
  if (world.is_protected(to)) return;
  world.both("copy " + std::to_string(from.inode) + " at " + std::to_string(source) + " to " +
                 std::to_string(to.inode) + " at " + std::to_string(target) + ", " +
                 std::to_string(length),
             [&](unsigned side) {
               off_t in = static_cast<off_t>(source), out = static_cast<off_t>(target);
               return answer_of(copy_file_range(from.fd[side], &in, to.fd[side], &out, length, 0));
             });
}

bool is_zero(int fd, std::uint64_t from, std::uint64_t to) {
  std::vector<char> bytes(to - from);
  const ssize_t got = pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(from));
  if (got < 0) return true;  // not open for reading: nothing can be said
  return std::ranges::all_of(bytes, [](char byte) { return byte == 0; });
}

// A block that has space and holds only zeroes may be data or a hole. So where both differ, there
// are zeroes in between (data), or in the block that one of them calls a hole.
void seek_data(World& world, Dice& dice) {
  const OpenFile& file = world.some_file(dice);
  struct stat status {};
  if (!file.is_open() || fstat(file.fd[kSubject], &status) != 0 || !S_ISREG(status.st_mode)) return;
  const bool data = dice.one_in(2);
  const std::uint64_t size = world.size_of(file.fd[kSubject]);
  const std::uint64_t from = dice.below(size + 2);
  std::uint64_t found[2];
  Answer answers[2];
  for (const unsigned side : {kSubject, kOracle}) {
    const int fd = file.fd[side];
    const off_t before = lseek(fd, 0, SEEK_CUR);
    answers[side] = answer_of(lseek(fd, static_cast<off_t>(from), data ? SEEK_DATA : SEEK_HOLE));
    lseek(fd, before, SEEK_SET);
    found[side] =
        answers[side].error == 0 ? static_cast<std::uint64_t>(answers[side].result) : size;
  }
  world.log((data ? "seek data " : "seek hole ") + std::to_string(file.inode) + " from " +
            std::to_string(from) + " = " + std::to_string(found[0]) + ", " +
            std::to_string(found[1]));
  if (from >= size) {
    if (answers[kSubject] != answers[kOracle]) world.differ("seek behind the end");
    return;
  }
  const auto [low, high] = std::minmax(found[kSubject], found[kOracle]);
  const std::uint64_t end = data ? high : std::min(size, (low / kBlock + 1) * kBlock);
  if (low != high && !is_zero(file.fd[kSubject], low, end))
    world.differ("seek: there is no hole at " + std::to_string(low));
}

constexpr Step kSteps[] = {
    {"ftruncate", 5, truncate_open}, {"truncate", 4, truncate_name}, {"fallocate", 10, allocate},
    {"copy", 5, copy_range},         {"seek", 4, seek_data},
};

}  // namespace

std::span<const Step> space_steps() { return kSteps; }

}  // namespace daxfs::differential
