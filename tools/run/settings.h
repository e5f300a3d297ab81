// What daxfs-run tells the library that it has loaded into a program, and what that counts.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace daxfs::run {

inline constexpr const char* kLibrary = "libdaxfs-run.so";

// A file that is only read, or only written, is attached at its so-manieth read or write.
inline constexpr const char* kAfterVariable = "DAXFS_RUN_AFTER";
inline constexpr unsigned kAfter = 16;
inline constexpr unsigned kMostAfter = 4000;
// The path of a file with Counters, which all processes map.
inline constexpr const char* kStatsVariable = "DAXFS_RUN_STATS";

// Which way a read or write went.
enum class Way : std::size_t {
  copied,   // without a system call
  refused,  // it cannot be attached
  closed,   // a detach, or the page cache, had the file
  grows,    // it made the file longer, or met a hole
  unusual,  // O_APPEND, flags of pwritev2(), an odd buffer, a signal handler
  forked,   // a child that has not attached by itself yet
};
inline constexpr std::size_t kWays = 6;

// Zero at first, in a file of this size.
struct Counters {
  struct alignas(64) Lane {
    std::array<std::atomic<std::uint64_t>, kWays> reads;
    std::array<std::atomic<std::uint64_t>, kWays> writes;
  };
  static constexpr std::size_t kLanes = 8;
  std::array<Lane, kLanes> lanes;
  std::atomic<std::uint64_t> processes;  // that the library was in
  std::atomic<std::uint64_t> attached;   // open files
  std::atomic<std::uint64_t> refused;
  std::atomic<std::uint64_t> early;   // calls before that
  std::atomic<std::uint64_t> fences;  // fsync() without a system call
  std::atomic<std::uint64_t> fsyncs;  // and with one, of attached files
};

}  // namespace daxfs::run
