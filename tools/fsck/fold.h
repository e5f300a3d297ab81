// Findings that say the same of many inodes or places, as one line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "blockmap/fsck/finding.h"

namespace daxfs {

// "inode 17-20, 23: its record is destroyed", 5 times.
struct FoldedFinding {
  const fsck::Finding* first;  // of those that the line stands for
  std::string object;
  std::string text;
  std::uint64_t times;
};

// In the order of each line's first finding. Folded are findings that differ in one number only:
// that of the object (which the text may repeat), or a number of the text. What stands in quotation
// marks is a name: each stays. The findings must outlive the result.
std::vector<FoldedFinding> fold(const std::vector<fsck::Finding>& findings);

}  // namespace daxfs
