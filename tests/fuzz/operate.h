// What a user does with a mounted filesystem, in-process: reading all there is, and changing it as
// an input chooses.
#pragma once

#include <string>

#include "src/filesystem.h"
#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

// Whether an error of the filesystem is a finding: in a sound one EIO and EUCLEAN are.
enum class Expect { sound, damaged };

// Reads every name, attribute, extended attribute, extent and byte (of huge files: a part).
void read_everything(Filesystem& fs, Expect expect);

// `count` operations of any kind on whatever is there.
void operate(Filesystem& fs, Input& input, std::uint64_t count, Expect expect);

}  // namespace daxfs::fuzz
