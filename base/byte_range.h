// What a program may give as a range of a file.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace daxfs {

// Not empty, and ends where file offsets do at the latest.
constexpr bool is_byte_range(FileOffset offset, ByteCount length) {
  return length.value != 0 && offset.value <= INT64_MAX && length.value <= INT64_MAX - offset.value;
}

}  // namespace daxfs
