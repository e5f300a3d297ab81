// Access control lists, mostly valid ones.
#pragma once

#include <string>

#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

inline std::string access_list(Input& in) {
  std::string list("\2\0\0\0", 4);
  const auto add = [&](char tag, std::uint32_t id) {
    list += {tag, '\0', static_cast<char>(in.below(8)), '\0'};
    for (int i = 0; i < 4; ++i) list += static_cast<char>(id >> 8 * i & 0xff);
  };
  const bool named = in.flag();
  add(1, UINT32_MAX);
  if (named) add(2, static_cast<std::uint32_t>(in.below(3)));
  add(4, UINT32_MAX);
  if (named) add(16, UINT32_MAX);
  add(32, UINT32_MAX);
  for (std::uint64_t wrong = in.below(4) == 3 ? in.below(4) : 0; wrong > 0; --wrong)
    list[in.below(list.size())] = static_cast<char>(in.byte());
  if (in.below(8) == 7) list.resize(in.below(list.size() + 9));
  return list;
}

}  // namespace daxfs::fuzz
