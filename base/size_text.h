// Sizes as people write and read them.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"

namespace daxfs {

// "4096", "64M", "64MiB", "2g": plain bytes or a binary multiple, K M G T P with or without "iB",
// in either case. At least 1. "64MB" is refused, because it is decimal to some and binary to
// others. EINVAL (ERANGE if it does not fit) as a Problem that quotes the text and gives the
// reason.
Outcome<ByteCount> parse_size(std::string_view text);

// "512 B", "64 MiB", "1.5 GiB": at most one decimal place.
std::string format_size(ByteCount size);

}  // namespace daxfs
