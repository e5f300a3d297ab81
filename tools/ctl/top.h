// daxfsctl top: who holds and who waits, again and again.
#pragma once

#include <chrono>
#include <string>

#include "base/result.h"
#include "tools/ctl/top_screen.h"

namespace daxfs::ctl {

struct TopOptions {
  std::chrono::milliseconds interval{1000};
  TopOrder order = TopOrder::bytes;
  std::uint64_t count = 0;  // so many pictures; 0: until it is ended
};

// On a terminal it takes the whole screen and listens to keys; elsewhere it prints one picture
// after the other. Returns when it is ended by a key or a signal, when the count is reached, or
// when the mount ends.
Outcome<void> top(const std::string& path, const TopOptions& options);

}  // namespace daxfs::ctl
