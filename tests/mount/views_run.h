// Random changes of a few files through every view there is, pins included, in daxfs and in another
// filesystem. After each, what is looked at must be what was stored, in both; and where they report
// data and holes must be right.
//
// The same holds for both sides: every byte that any view shows, every size, each errno, and each
// answer of SEEK_DATA and SEEK_HOLE. Only daxfs has pins: what a holder stores is stored in the
// other one by write(2). Excepted, because no order of events decides them:
//   - bytes that a holder has stored since the kernel last dropped the file's pages, in views that
//     were there before (client/daxfs.h says which do not see them); such bytes are not stored to
//     through the mapping either;
//   - bytes that the mapping (with cache=writeback, write(2), too) has stored since it was last
//     written back, in the holder's view;
//   - whether a block that has space and holds only zeroes is data or a hole.
#pragma once

#include <cstdint>
#include <string>

namespace daxfs::test {

struct ViewsSetup {
  std::string subject;     // a directory of a daxfs mount
  std::string oracle;      // one of another filesystem that knows holes
  bool defers = false;     // the mount's policy: defer, else refuse
  std::uint64_t seed = 1;  // the same seed does the same
  std::uint64_t operations = 1000;
  bool keeps_writes = false;   // the mount's: cache=writeback
  bool sees_unwritten = true;  // the oracle tells preallocated blocks from data, as ext4 does
};

// Throws std::runtime_error: what was done last, then the seed and the difference.
void run_views(const ViewsSetup& setup);

}  // namespace daxfs::test
