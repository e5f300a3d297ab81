// Commands of bench-client that need no daxfs: reading and writing, files and their names.
#include <sched.h>

#include <algorithm>
#include <barrier>
#include <bit>
#include <cstdio>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tools/benchmark/bench_commands.h"

namespace daxfs::bench {
namespace {

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  require(sched_setaffinity(0, sizeof set, &set) == 0, "run on CPU " + std::to_string(cpu));
}

// The i-th block to visit. Random orders are a full-period generator modulo a power of two: all
// blocks of the largest power of two that fits, each once, then again.
class BlockOrder {
 public:
  BlockOrder(const IoOptions& options, unsigned job)
      : random_(options.random), count_(options.region / options.block / options.jobs) {
    if (count_ == 0) throw std::runtime_error("the region is smaller than one block a job");
    first_ = count_ * job;
    if (random_) count_ = std::bit_floor(count_);
    state_ = 12345 + job;
  }
  std::uint64_t next(std::uint64_t i) {
    if (!random_) return first_ + i % count_;
    state_ = (state_ * 1664525 + 1013904223) & (count_ - 1);
    return first_ + scatter(state_);
  }
  std::uint64_t count() const { return count_; }

 private:
  // The low bits of such a generator have short periods: reverse them into the high ones.
  std::uint64_t scatter(std::uint64_t value) const {
    std::uint64_t result = 0;
    for (std::uint64_t bit = 1; bit < count_; bit <<= 1) {
      result = (result << 1) | ((value & bit) != 0 ? 1u : 0u);
    }
    return result;
  }

  bool random_;
  std::uint64_t count_;
  std::uint64_t first_ = 0;
  std::uint64_t state_ = 0;
};

Measured io_job(const IoOptions& options, unsigned job, std::barrier<>& start) {
  if (!options.cpus.empty()) run_on(options.cpus[job % options.cpus.size()]);
  const File file(options.file,
                  (options.write ? O_RDWR : O_RDONLY) | (options.direct ? O_DIRECT : 0));
  const Buffer buffer(options.block);
  BlockOrder order(options, job);
  const Limit limit = {.warm_up_seconds = options.cold ? 0 : options.seconds / 10,
                       .seconds = options.seconds,
                       .operations = options.cold ? order.count() : UINT64_MAX};
  start.arrive_and_wait();
  return timed_loop(limit, [&](std::uint64_t i) {
    const auto offset = static_cast<off_t>(order.next(i) * options.block);
    const ssize_t done = options.write ? pwrite(file.fd(), buffer.data(), options.block, offset)
                                       : pread(file.fd(), buffer.data(), options.block, offset);
    if (done != static_cast<ssize_t>(options.block)) {
      if (done >= 0) errno = EIO;
      fail((options.write ? "write " : "read ") + options.file);
    }
  });
}

}  // namespace

void run_io(const IoOptions& options) {
  if (options.cold) {
    const File file(options.file, O_RDONLY);
    posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
  }
  std::barrier<> start(static_cast<std::ptrdiff_t>(options.jobs));
  std::mutex mutex;  // guards total and error
  Measured total;
  std::exception_ptr error;
  {
    std::vector<std::jthread> threads;
    for (unsigned job = 0; job < options.jobs; ++job) {
      threads.emplace_back([&, job] {
        try {
          const Measured mine = io_job(options, job, start);
          const std::lock_guard lock(mutex);
          total.latency.merge(mine.latency);
          total.rate += mine.rate;
        } catch (...) {
          start.arrive_and_drop();
          const std::lock_guard lock(mutex);
          error = std::current_exception();
        }
      });
    }
  }
  if (error) std::rethrow_exception(error);
  std::puts(total.json(options.block).dump().c_str());
}

void run_fill(const FillOptions& options) {
  const File file(options.file, O_RDWR | O_CREAT);
  const std::uint64_t step = options.sparse ? kBlock : std::uint64_t{1} << 20;
  const Buffer buffer(step);
  const std::uint64_t end = options.blocks * kBlock;
  for (std::uint64_t done = 0; done < end; done += step) {
    const std::uint64_t length = std::min(step, end - done);
    const std::uint64_t offset = options.sparse ? done * 2 : done;
    require(pwrite(file.fd(), buffer.data(), length, static_cast<off_t>(offset)) ==
                static_cast<ssize_t>(length),
            "write " + options.file);
  }
  std::puts("{}");
}

void run_meta(const MetaOptions& options) {
  const std::string prefix = options.directory + "/bench-" + std::to_string(getpid()) + "-";
  const auto name = [&](std::uint64_t i) { return prefix + std::to_string(i); };
  const Buffer buffer(kBlock);
  const Limit limit = {.seconds = 3600, .operations = options.files};
  nlohmann::json result;
  result["create"] = timed_loop(limit, [&](std::uint64_t i) {
                       const File file(name(i), O_CREAT | O_EXCL | O_WRONLY);
                       require(write(file.fd(), buffer.data(), options.bytes) ==
                                   static_cast<ssize_t>(options.bytes),
                               "write " + file.path());
                     }).json();
  result["stat"] = timed_loop(limit, [&](std::uint64_t i) {
                     struct stat st = {};
                     require(stat(name(i).c_str(), &st) == 0, "stat " + name(i));
                   }).json();
  result["rename"] = timed_loop(limit, [&](std::uint64_t i) {
                       const std::string from = name(i);
                       require(rename(from.c_str(), (from + "r").c_str()) == 0, "rename " + from);
                     }).json();
  result["unlink"] = timed_loop(limit, [&](std::uint64_t i) {
                       const std::string old = name(i) + "r";
                       require(unlink(old.c_str()) == 0, "unlink " + old);
                     }).json();
  std::puts(result.dump().c_str());
}

}  // namespace daxfs::bench
