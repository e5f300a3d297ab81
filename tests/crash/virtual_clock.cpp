#include "tests/crash/virtual_clock.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace {

thread_local std::int64_t file_time = 0;

}  // namespace

namespace daxfs::testing {

void set_file_time(std::int64_t seconds) { file_time = seconds; }

}  // namespace daxfs::testing

extern "C" int clock_gettime(clockid_t clock, timespec* out) noexcept {
  if (clock == CLOCK_REALTIME_COARSE && file_time != 0) {
    *out = {.tv_sec = file_time, .tv_nsec = 0};
    return 0;
  }
  return static_cast<int>(::syscall(SYS_clock_gettime, clock, out));
}
