// The time that files get, set by the test: runs are repeatable, and a time says which operation it
// comes from.
//
// The filesystem asks for CLOCK_REALTIME_COARSE; virtual_clock.cpp puts a clock_gettime() before
// the C library's that answers this one question from a variable of the thread.
#pragma once

#include <cstdint>

namespace daxfs::testing {

// Of this thread, in seconds since the epoch; until it is set, time is real.
void set_file_time(std::int64_t seconds);

}  // namespace daxfs::testing
