// Everything that is done at random. A step does one thing, in both filesystems, as some user; what
// it does follows from its dice and from what was done before.
#pragma once

#include <sys/stat.h>

#include <span>

#include "tests/differential/world.h"

namespace daxfs::differential {

struct Step {
  const char* name;
  unsigned weight;
  void (*act)(World& world, Dice& dice);
};

std::span<const Step> name_steps();
std::span<const Step> data_steps();
std::span<const Step> space_steps();
std::span<const Step> mapping_steps();
std::span<const Step> attribute_steps();
std::span<const Step> xattr_steps();
std::span<const Step> pin_steps();

// One of all of them, by their weights; `left_out`: names of those that do nothing.
const Step& some_step(Dice& dice);

// For the steps: what is said of a file's type, owner, size and times. Times that nobody set to
// something in the past are all the same.
std::string described(const struct stat& status, bool with_times);

}  // namespace daxfs::differential
