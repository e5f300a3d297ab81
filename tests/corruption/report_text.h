// A report of fsck, to be read when it is not as it should be.
#pragma once

#include <fmt/format.h>

#include <string>

#include "blockmap/fsck/finding.h"

namespace daxfs::corruption {

inline std::string describe(const fsck::Report& report) {
  std::string out;
  for (const fsck::Finding& f : report.findings) {
    out += fmt::format("  {}: {} [{}, {}]{}\n", f.object, f.text, to_string(f.severity),
                       to_string(f.code), f.fixed ? "" : " (left)");
  }
  return out;
}

}  // namespace daxfs::corruption
