// How `daxfsctl top` looks. Knows no terminal: makes lines of a width.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "tools/ctl/snapshot.h"

namespace daxfs::ctl {

enum class TopOrder { bytes, pins, holds_up, oldest };

struct TopLook {
  std::size_t width = 80;
  std::size_t height = 24;  // of what is made; 0: as much as there is
  TopOrder order = TopOrder::bytes;
  bool styled = false;  // with the terminal's bold and reverse
};

// `before`: an earlier moment, for rates; none: the events since the mount are shown. `now_wall`:
// in seconds since 1970.
std::vector<std::string> draw_top(const Snapshot& now, const Snapshot* before, double now_wall,
                                  const TopLook& look);

}  // namespace daxfs::ctl
