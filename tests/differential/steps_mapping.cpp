// Files through shared mappings: mapped, stored to, loaded from, synced.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

Mapping& some_mapping(World& world, Dice& dice) { return dice.of(world.mappings()); }

void map_file(World& world, Dice& dice) {
  const OpenFile& file = dice.of(world.files());
  Mapping& mapping = some_mapping(world, dice);
  struct stat status {};
  if (!file.is_open() || fstat(file.fd[kSubject], &status) != 0 || !S_ISREG(status.st_mode)) return;
  world.unmap(mapping);
  const bool writes = !dice.one_in(4);
  // The kernel refuses to map what it knows to be append-only.
  if (world.is_protected(file)) return;
  const std::uint64_t length = kMostBytes;
  const Answer answer = world.both(
      "map " + std::to_string(file.inode) + (writes ? " for writing" : ""), [&](unsigned side) {
        void* at = mmap(nullptr, length, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                        file.fd[side], 0);
        const bool failed = at == MAP_FAILED;
        mapping.at[side] = failed ? nullptr : static_cast<char*>(at);
        return answer_of(failed ? -1 : 0);
      });
  if (answer.error != 0) {
    mapping = Mapping();
    return;
  }
  mapping.length = length;
  mapping.inode = file.inode;
  mapping.writable = writes;
  for (const unsigned side : {kSubject, kOracle})
    mapping.fd[side] = fcntl(file.fd[side], F_DUPFD_CLOEXEC, 0);
}

// Within the file: what lies behind its end is nobody's, and further on is SIGBUS.
struct Part {
  std::uint64_t offset, length;
};
Part some_part(World& world, Dice& dice, const Mapping& mapping) {
  const std::uint64_t size = world.size_of(mapping.fd[kSubject]);
  if (size == 0) return {};
  const std::uint64_t offset = dice.below(size);
  const std::uint64_t length = 1 + dice.below(dice.one_in(4) ? 3 * kBlock : 600);
  return {offset, std::min(length, size - offset)};
}

// ext4 lets a mapping store to a file that was protected since; daxfs does not (docs/limits.md).
bool is_protected(const Mapping& mapping) {
  int flags = 0;
  return ioctl(mapping.fd[kOracle], FS_IOC_GETFLAGS, &flags) == 0 &&
         (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) != 0;
}

void store(World& world, Dice& dice) {
  const Mapping& mapping = some_mapping(world, dice);
  if (mapping.at[kSubject] == nullptr || !mapping.writable || is_protected(mapping)) return;
  const Part part = some_part(world, dice, mapping);
  if (part.length == 0) return;
  world.log("store " + std::to_string(mapping.inode) + " [" + std::to_string(part.offset) + ", +" +
            std::to_string(part.length) + ")");
  const std::uint64_t salt = dice.next();
  world.store(mapping.inode);
  for (char* at : mapping.at) fill(at + part.offset, part.length, salt);
}

void load(World& world, Dice& dice) {
  const Mapping& mapping = some_mapping(world, dice);
  if (mapping.at[kSubject] == nullptr) return;
  const Part part = some_part(world, dice, mapping);
  if (part.length == 0) return;
  world.log("load " + std::to_string(mapping.inode) + " [" + std::to_string(part.offset) + ", +" +
            std::to_string(part.length) + ")");
  for (std::uint64_t at = part.offset; at < part.offset + part.length; ++at) {
    if (mapping.at[kSubject][at] != mapping.at[kOracle][at])
      world.differ("the mapping at " + std::to_string(at));
  }
}

void sync_mappings(World& world, Dice&) {
  world.log("msync of all mappings");
  world.settle();
}

void unmap(World& world, Dice& dice) {
  Mapping& mapping = some_mapping(world, dice);
  if (mapping.at[kSubject] == nullptr) return;
  world.log("unmap " + std::to_string(mapping.inode));
  world.unmap(mapping);
}

constexpr Step kSteps[] = {
    {"map", 3, map_file},        {"store", 8, store}, {"load", 4, load},
    {"msync", 2, sync_mappings}, {"unmap", 1, unmap},
};

}  // namespace

std::span<const Step> mapping_steps() { return kSteps; }

}  // namespace daxfs::differential
