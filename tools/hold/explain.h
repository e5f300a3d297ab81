// Why a range could not be held: errno turned into a sentence with a way out.
#pragma once

#include <string>

#include "base/result.h"
#include "tools/hold/options.h"

namespace daxfs::hold {

Problem explain_pin(int code, int file, const ByteRange& range, const Options& options);
Problem explain_lease(int code, FileRange range, const Options& options);
Problem explain_map(int code, int file, const std::string& path);
Problem explain_release(int code);
Problem explain_open(int code, const std::string& path, bool for_writing);

}  // namespace daxfs::hold
