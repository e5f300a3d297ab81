#include "tests/differential/pins.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/daxfs.h"

namespace daxfs::differential {
namespace {

using Kind = Holder::Ask::Kind;

Holder::Ask to_slot(Kind kind, std::size_t slot) {
  Holder::Ask ask{};
  ask.kind = kind;
  ask.slot = slot;
  ask.delay_us = 300;
  return ask;
}

}  // namespace

// A timeout that is to end is short; one that is not to is longer than anything here.
const std::array<Policy, 7> kPolicies{{
    {"pin_policy=refuse", true, false},
    {"pin_policy=defer,limbo_limit=100%", false, false},
    {"pin_policy=wait,wait_timeout=600s,on_timeout=refuse", false, true},
    {"pin_policy=break,break_timeout=600s,on_timeout=refuse", false, true},
    {"pin_policy=wait,wait_timeout=3ms,on_timeout=refuse", true, false},
    {"pin_policy=wait,wait_timeout=3ms,on_timeout=defer,limbo_limit=100%", false, false},
    {"pin_policy=refuse", true, false},
}};

std::uint64_t Pins::Pin::within(const Blocks& range) const {
  std::uint64_t mask = 0;
  if (range.inode == 0 || range.inode != inode) return 0;
  for (std::uint64_t i = 0; i < kMostPinned; ++i)
    if (first + i >= range.first && first + i < range.end) mask |= std::uint64_t{1} << i;
  return mask & blocks;
}

int Pins::take(const std::string& path, std::uint64_t inode, const Blocks& blocks, bool write,
               bool lease, int oracle) {
  UniqueFd kept(oracle);
  const auto free = std::ranges::find_if_not(pins_, &Pin::is_there);
  if (free == pins_.end() || path.size() >= sizeof Holder::Ask::path) return ENOSPC;
  Holder::Ask ask = to_slot(Kind::pin, static_cast<std::size_t>(free - pins_.begin()));
  ask.offset = blocks.first * DAXFS_BLOCK_SIZE;
  ask.length = (blocks.end - blocks.first) * DAXFS_BLOCK_SIZE;
  ask.flags = write ? DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE : 0;
  ask.lease = lease;
  std::memcpy(ask.path, path.c_str(), path.size() + 1);
  if (const int error = holder_.ask(ask); error != 0) return error;
  const std::uint64_t count = blocks.end - blocks.first;
  *free = Pin{.inode = inode,
              .first = blocks.first,
              .blocks = count >= kMostPinned ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1,
              .write = write,
              .lease = lease,
              .oracle = std::move(kept)};
  return 0;
}

bool Pins::has_room() const {
  return std::ranges::any_of(pins_, [](const Pin& pin) { return !pin.is_there(); });
}

// An unpin of a write pin is a change of the file.
void Pins::gone(Pin& pin) {
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT},
                             {.tv_sec = 0, .tv_nsec = UTIME_NOW}};
  if (pin.write && pin.oracle) futimens(pin.oracle.get(), times);
  pin = Pin();
}

std::string Pins::drop(std::uint64_t which) {
  const std::size_t slot = which % kMostPins;
  if (!pins_[slot].is_there()) return {};
  const int error = holder_.ask(to_slot(Kind::unpin, slot));
  gone(pins_[slot]);
  return "unpin " + std::to_string(slot) + (error != 0 ? ": " + std::to_string(error) : "");
}

void Pins::drop_all() {
  for (std::size_t i = 0; i < kMostPins; ++i) drop(i);
}

int Pins::switch_to(const Policy& policy) {
  daxfs_policy_args args{};
  args.length = static_cast<std::uint32_t>(std::strlen(policy.words));
  std::memcpy(args.text, policy.words, args.length);
  if (ioctl(directory_, DAXFS_IOC_POLICY, &args) != 0) return errno;
  policy_ = &policy;
  return 0;
}

bool Pins::meet(const Blocks& blocks) const {
  return std::ranges::any_of(pins_, [&](const Pin& pin) { return pin.within(blocks) != 0; });
}

bool Pins::pinned_for_writing(std::uint64_t inode) const {
  return std::ranges::any_of(pins_,
                             [&](const Pin& pin) { return pin.inode == inode && pin.write; });
}

void Pins::give_way(const Blocks& blocks) {
  if (!policy_->waits) return;
  const bool breaks = std::strstr(policy_->words, "break") != nullptr;
  for (std::size_t i = 0; i < kMostPins; ++i) {
    // Holders of leases hear of it from the daemon.
    if (pins_[i].within(blocks) != 0 && !(breaks && pins_[i].lease))
      holder_.ask(to_slot(Kind::unpin_late, i));
  }
}

void Pins::settle(const Blocks& blocks, bool left) {
  const std::uint64_t held = holder_.settle();
  for (std::size_t i = 0; i < kMostPins; ++i) {
    Pin& pin = pins_[i];
    if (!pin.is_there()) continue;
    if ((held >> i & 1) == 0) {
      gone(pin);
    } else if (left) {
      pin.blocks &= ~pin.within(blocks);
    }
  }
}

}  // namespace daxfs::differential
