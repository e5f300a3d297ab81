// views_soak SUBJECT ORACLE OPERATIONS [SEED [refuse|defer [through|writeback|none
// [no-unwritten]]]]
//
// Compares a directory of a daxfs mount, seen in every way, with one of another filesystem
// (tests/mount/views_run.h says what is compared). In pieces of 20,000 operations with files of
// their own, each with the next seed: what a piece finds, its seed alone finds again.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "tests/mount/views_run.h"

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr,
                 "usage: views_soak SUBJECT ORACLE OPERATIONS [SEED [refuse|defer "
                 "[through|writeback|none [no-unwritten]]]]\n");
    return 2;
  }
  constexpr std::uint64_t kPiece = 20000;
  daxfs::test::ViewsSetup setup{.subject = words[1], .oracle = words[2]};
  std::uint64_t left = std::strtoull(words[3], nullptr, 10);
  if (count > 4) setup.seed = std::strtoull(words[4], nullptr, 10);
  if (count > 5) setup.defers = std::string(words[5]) == "defer";
  if (count > 6) setup.keeps_writes = std::string(words[6]) == "writeback";
  if (count > 7) setup.sees_unwritten = false;
  std::uint64_t done = 0;
  try {
    for (; left > 0; ++setup.seed) {
      setup.operations = std::min(left, kPiece);
      daxfs::test::run_views(setup);
      left -= setup.operations;
      done += setup.operations;
    }
  } catch (const std::exception& difference) {
    std::fprintf(stderr, "%s\n", difference.what());
    return 1;
  }
  std::printf("%llu operations, no difference\n", static_cast<unsigned long long>(done));
  return 0;
}
