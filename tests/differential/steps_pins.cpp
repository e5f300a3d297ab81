// Pins, on daxfs alone: taken, given back, and what the mount does with what is in their way.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

// The holder pins what is there, holes too (a write pin fills them with zeroes), and makes no file
// longer.
void pin(World& world, Dice& dice) {
  const std::string name = some_path(dice);
  const bool write = dice.one_in(2);
  const bool lease = dice.one_in(2);
  const std::uint64_t chance = dice.next();
  world.become_root();
  struct stat status {};
  const std::string path = world.path(kSubject, name);
  if (!world.pins().has_room() || lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size < static_cast<off_t>(kBlock))
    return;
  // A write pin of an opened file that is protected would be one that changes it.
  if (write && world.is_protected(name)) return;
  Dice part(chance);
  const auto whole = static_cast<std::uint64_t>(status.st_size) / kBlock;
  Blocks blocks{.inode = status.st_ino, .first = part.below(whole), .end = 0};
  blocks.end = std::min(whole, blocks.first + 1 + part.below(12));
  const int oracle = open(world.path(kOracle, name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  world.log("pin " + name + " (" + std::to_string(status.st_ino) + ") blocks [" +
            std::to_string(blocks.first) + ", " + std::to_string(blocks.end) + ")" +
            (write ? " for writing" : "") + (lease ? " with a lease" : ""));
  const int error = world.pins().take(path, status.st_ino, blocks, write, lease, oracle);
  // Only holes, of a read pin, are no reason.
  if (error != 0 && !(error == ENXIO && !write))
    world.differ("pin: " + std::string(strerrorname_np(error)));
  // Whoever pins for writing may write, as at a write.
  if (write) lremovexattr(world.path(kOracle, name).c_str(), "security.capability");
}

void unpin(World& world, Dice& dice) {
  world.become_root();
  world.settle();
  const std::string what = world.pins().drop(dice.next());
  if (!what.empty()) world.log(what);
}

void switch_policy(World& world, Dice& dice) {
  world.become_root();
  const Policy& policy = dice.of(kPolicies);
  world.log(policy.words);
  if (const int error = world.pins().switch_to(policy); error != 0)
    world.differ("policy: " + std::string(strerrorname_np(error)));
}

constexpr Step kSteps[] = {{"pin", 6, pin}, {"unpin", 3, unpin}, {"policy", 1, switch_policy}};

}  // namespace

std::span<const Step> pin_steps() { return kSteps; }

}  // namespace daxfs::differential
