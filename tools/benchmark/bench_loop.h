// What all loops of bench-client need: files, memory, a clock, and the loop that is timed.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "tools/benchmark/bench_histogram.h"

namespace daxfs::bench {

inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kSecond = 1'000'000'000;

inline std::uint64_t now() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

[[noreturn]] inline void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

inline void require(bool good, const std::string& what) {
  if (!good) fail(what);
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path), fd_(open(path.c_str(), flags, 0644)) {
    require(fd_ >= 0, "open " + path);
  }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  std::uint64_t size() const {
    struct stat st = {};
    require(fstat(fd_, &st) == 0, "stat " + path_);
    return static_cast<std::uint64_t>(st.st_size);
  }

 private:
  std::string path_;
  int fd_;
};

// Memory that O_DIRECT takes, touched and not all alike.
class Buffer {
 public:
  explicit Buffer(std::size_t size) : memory_(std::aligned_alloc(kBlock, size)) {
    if (memory_ == nullptr) throw std::bad_alloc();
    std::uint64_t value = 0x9e3779b97f4a7c15;
    for (std::size_t at = 0; at + sizeof value <= size; at += sizeof value) {
      value = value * 6364136223846793005u + 1442695040888963407u;
      std::memcpy(static_cast<char*>(memory_) + at, &value, sizeof value);
    }
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return memory_; }

 private:
  void* memory_;
};

struct Measured {
  Histogram latency;
  double rate = 0;  // operations per second

  nlohmann::json json(std::uint64_t bytes_per_op = 0) const {
    return {{"ops", latency.count()},
            {"ops_per_s", rate},
            {"bytes_per_s", rate * static_cast<double>(bytes_per_op)},
            {"p50_us", latency.percentile(0.50) / 1000},
            {"p99_us", latency.percentile(0.99) / 1000}};
  }
};

// How long a timed loop runs: until the time is over or the operations are used up.
struct Limit {
  double warm_up_seconds = 0;
  double seconds = 1;
  std::uint64_t operations = UINT64_MAX;
};

// Calls op(i) for i = 0, 1, ...; what ran in the warm-up is not counted.
template <typename Op>
Measured timed_loop(const Limit& limit, Op&& op) {
  Measured result;
  const std::uint64_t begin = now();
  const auto warm =
      begin + static_cast<std::uint64_t>(limit.warm_up_seconds * static_cast<double>(kSecond));
  const auto end = warm + static_cast<std::uint64_t>(limit.seconds * static_cast<double>(kSecond));
  std::uint64_t first = begin;
  std::uint64_t last = begin;
  for (std::uint64_t i = 0; i < limit.operations && last < end; ++i) {
    op(i);
    const std::uint64_t time = now();
    if (last >= warm) {
      if (result.latency.count() == 0) first = last;
      result.latency.add(time - last);
    }
    last = time;
  }
  if (last > first) {
    result.rate = static_cast<double>(result.latency.count()) * static_cast<double>(kSecond) /
                  static_cast<double>(last - first);
  }
  return result;
}

}  // namespace daxfs::bench
