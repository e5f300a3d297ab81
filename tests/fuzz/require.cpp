#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/target.h"

namespace daxfs::fuzz {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

}  // namespace daxfs::fuzz
