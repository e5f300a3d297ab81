// Wall-clock time as files carry it: nanoseconds since the epoch (until the year 2262).
#pragma once

#include <cstdint>
#include <ctime>

namespace daxfs {

inline constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

// The kernel's own granularity for file times (a tick), without a system call.
inline std::int64_t file_time_now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now.tv_sec * kNanosecondsPerSecond + now.tv_nsec;
}

inline timespec to_timespec(std::int64_t ns) {
  std::int64_t seconds = ns / kNanosecondsPerSecond;
  std::int64_t rest = ns % kNanosecondsPerSecond;
  if (rest < 0) {
    rest += kNanosecondsPerSecond;
    seconds -= 1;
  }
  return {.tv_sec = seconds, .tv_nsec = rest};
}

// Clamps to what the format can hold.
inline std::int64_t from_timespec(const timespec& time) {
  constexpr std::int64_t limit = INT64_MAX / kNanosecondsPerSecond - 1;
  const std::int64_t seconds = time.tv_sec > limit    ? limit
                               : time.tv_sec < -limit ? -limit
                                                      : time.tv_sec;
  return seconds * kNanosecondsPerSecond + time.tv_nsec;
}

}  // namespace daxfs
