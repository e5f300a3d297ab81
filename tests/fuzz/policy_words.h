// Settings as people write them, well or badly: what the targets that take such text have in
// common.
#pragma once

#include <iterator>
#include <string>

#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

inline constexpr const char* kPolicyWords[] = {"pin_policy",
                                               "on_timeout",
                                               "wait_timeout",
                                               "break_timeout",
                                               "short_timeout",
                                               "longterm",
                                               "pin_limit",
                                               "user_limit",
                                               "limbo_limit",
                                               "refuse",
                                               "defer",
                                               "wait",
                                               "break",
                                               "ignore",
                                               "allow",
                                               "lease",
                                               "forbid",
                                               "none",
                                               "25%",
                                               "101%",
                                               "4G",
                                               "16E",
                                               "18446744073709551615",
                                               "64MiB",
                                               "10ms",
                                               "2s",
                                               "366h",
                                               "8784h",
                                               "=",
                                               "=",
                                               "=",
                                               ",",
                                               ",",
                                               " ",
                                               "\n",
                                               "%",
                                               "0",
                                               "1",
                                               "-1",
                                               "unsafe_demo",
                                               "ro",
                                               "relatime",
                                               "nonempty",
                                               "x-systemd.automount",
                                               "nosuid",
                                               "",
                                               "min",
                                               "exit_grace"};

// Words in any order, with some letters of the input's own between them.
inline std::string policy_text(Input& input) {
  std::string out;
  for (std::uint64_t words = input.below(16); words > 0; --words) {
    const std::uint64_t word = input.below(std::size(kPolicyWords) + 6);
    out += word < std::size(kPolicyWords) ? std::string(kPolicyWords[word]) : input.text(12);
  }
  return out;
}

}  // namespace daxfs::fuzz
