// bench-client: the loops that tools/bench times. Each command does one thing to files of a mount
// and prints one JSON object: operations, rate, and the latency's median and 99th percentile. It
// starts in a millisecond, so that tools/bench can alternate between filesystems often.
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <barrier>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "client/daxfs.h"
#include "tools/bench_histogram.h"

namespace daxfs::bench {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSecond = 1'000'000'000;

std::uint64_t now() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

void require(bool good, const std::string& what) {
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

// ---- io: reads or writes blocks of one file ----

struct IoOptions {
  std::string file;
  bool write = false;
  bool random = false;
  bool direct = false;
  bool cold = false;  // drop the file's cached pages first, visit each block at most once
  std::uint64_t block = kBlock;
  std::uint64_t region = std::uint64_t{256} << 20;
  unsigned jobs = 1;
  double seconds = 1;
  std::vector<unsigned> cpus;  // job i runs on cpus[i mod n]; empty: anywhere
};

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

// ---- fill: makes the file that another command works on ----

struct FillOptions {
  std::string file;
  std::uint64_t blocks = 0;
  bool sparse = false;  // `blocks` extents of one block with a hole after each
};

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

// ---- meta: create, stat, rename, unlink ----

struct MetaOptions {
  std::string directory;
  unsigned files = 5000;
  std::uint64_t bytes = kBlock;
};

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

// ---- pin, hold, punch ----

std::uint64_t pin_block(const File& file, std::uint64_t block) {
  daxfs_pin_args args = {};
  args.offset = block * kBlock;
  args.length = kBlock;
  require(ioctl(file.fd(), DAXFS_IOC_PIN, &args) == 0, "pin " + file.path());
  return args.pin_id;
}

struct PinOptions {
  std::string file;
  double seconds = 1;
};

// One operation is a pin of one random block and its unpin.
void run_pin(const PinOptions& options) {
  const File file(options.file, O_RDWR);
  const std::uint64_t blocks = file.size() / kBlock;
  if (blocks == 0) throw std::runtime_error(options.file + " has no whole block to pin");
  std::mt19937_64 random(7);
  const Measured result = timed_loop(
      {.warm_up_seconds = options.seconds / 10, .seconds = options.seconds}, [&](std::uint64_t) {
        daxfs_unpin_args unpin = {.pin_id = pin_block(file, random() % blocks)};
        require(ioctl(file.fd(), DAXFS_IOC_UNPIN, &unpin) == 0, "unpin " + file.path());
      });
  std::puts(result.json().dump().c_str());
}

struct HoldOptions {
  std::string file;
  std::uint64_t pins = 0;
};

// Random blocks, so that neighbours differ in their counts and cannot be kept as one run. Holds
// until its standard input ends.
void run_hold(const HoldOptions& options) {
  const File file(options.file, O_RDWR);
  const std::uint64_t blocks = file.size() / kBlock;
  if (blocks == 0) throw std::runtime_error(options.file + " has no whole block to pin");
  std::mt19937_64 random(11);
  for (std::uint64_t i = 0; i < options.pins; ++i) pin_block(file, random() % blocks);
  std::puts("{\"held\":true}");
  std::fflush(stdout);
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

struct PunchOptions {
  std::string file;
  bool sparse = false;  // the file was made by fill --sparse
  double seconds = 1;
};

// Punches random blocks out of a file and writes them again; only the punches are timed.
void run_punch(const PunchOptions& options) {
  const File file(options.file, O_RDWR);
  const std::uint64_t step = options.sparse ? 2 * kBlock : kBlock;
  const std::uint64_t count = (file.size() + step - 1) / step;
  if (count == 0) throw std::runtime_error(options.file + " has no block to punch");
  const Buffer buffer(kBlock);
  std::mt19937_64 random(13);
  Measured result;
  std::uint64_t spent = 0;
  const auto end =
      now() + static_cast<std::uint64_t>(options.seconds * static_cast<double>(kSecond));
  while (now() < end) {
    const auto offset = static_cast<off_t>(random() % count * step);
    const std::uint64_t before = now();
    require(fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                      static_cast<off_t>(kBlock)) == 0,
            "punch " + options.file);
    const std::uint64_t time = now() - before;
    result.latency.add(time);
    spent += time;
    require(pwrite(file.fd(), buffer.data(), kBlock, offset) == static_cast<ssize_t>(kBlock),
            "write " + options.file);
  }
  if (spent > 0) {
    result.rate = static_cast<double>(result.latency.count()) * static_cast<double>(kSecond) /
                  static_cast<double>(spent);
  }
  std::puts(result.json().dump().c_str());
}

// One option struct per command, living as long as the parser.
struct Commands {
  IoOptions io;
  FillOptions fill;
  MetaOptions meta;
  PinOptions pin;
  HoldOptions hold;
  PunchOptions punch;
};

void describe(CLI::App& app, Commands& commands) {
  app.require_subcommand(1);
  CLI::App* io = app.add_subcommand("io", "read or write blocks of a file");
  io->add_option("--file", commands.io.file)->required();
  io->add_flag("--write", commands.io.write);
  io->add_flag("--random", commands.io.random);
  io->add_flag("--direct", commands.io.direct, "O_DIRECT");
  io->add_flag("--cold", commands.io.cold, "drop the page cache first, each block at most once");
  io->add_option("--block", commands.io.block, "bytes")->check(CLI::Range(kBlock, kBlock << 20));
  io->add_option("--region", commands.io.region, "bytes at the file's beginning");
  io->add_option("--jobs", commands.io.jobs)->check(CLI::Range(1, 1024));
  io->add_option("--seconds", commands.io.seconds);
  io->add_option("--cpus", commands.io.cpus, "one for each job")->delimiter(',');
  io->callback([&commands] { run_io(commands.io); });

  CLI::App* fill = app.add_subcommand("fill", "make a file");
  fill->add_option("--file", commands.fill.file)->required();
  fill->add_option("--blocks", commands.fill.blocks)->required();
  fill->add_flag("--sparse", commands.fill.sparse, "a hole after each block");
  fill->callback([&commands] { run_fill(commands.fill); });

  CLI::App* meta = app.add_subcommand("meta", "create, stat, rename and unlink files");
  meta->add_option("--dir", commands.meta.directory)->required();
  meta->add_option("--files", commands.meta.files);
  meta->add_option("--bytes", commands.meta.bytes, "in each file")
      ->check(CLI::Range(std::uint64_t{0}, kBlock));
  meta->callback([&commands] { run_meta(commands.meta); });

  CLI::App* pin = app.add_subcommand("pin", "pin and unpin a block");
  pin->add_option("--file", commands.pin.file)->required();
  pin->add_option("--seconds", commands.pin.seconds);
  pin->callback([&commands] { run_pin(commands.pin); });

  CLI::App* hold = app.add_subcommand("hold", "hold many pins until the standard input ends");
  hold->add_option("--file", commands.hold.file)->required();
  hold->add_option("--pins", commands.hold.pins)->required();
  hold->callback([&commands] { run_hold(commands.hold); });

  CLI::App* punch = app.add_subcommand("punch", "punch a block out of a file");
  punch->add_option("--file", commands.punch.file)->required();
  punch->add_flag("--sparse", commands.punch.sparse);
  punch->add_option("--seconds", commands.punch.seconds);
  punch->callback([&commands] { run_punch(commands.punch); });
}

}  // namespace
}  // namespace daxfs::bench

int main(int argc, char** argv) {
  try {
    CLI::App app("The timed loops of tools/bench; prints JSON.", "bench-client");
    daxfs::bench::Commands commands;
    daxfs::bench::describe(app, commands);
    CLI11_PARSE(app, argc, argv);
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-client: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
