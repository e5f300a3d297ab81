// The commands of bench-client. Each prints one JSON object; a failure is an exception.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/benchmark/bench_loop.h"

namespace daxfs::bench {

// Reads or writes blocks of one file.
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

void run_io(const IoOptions& options);

// Makes the file that another command works on.
struct FillOptions {
  std::string file;
  std::uint64_t blocks = 0;
  bool sparse = false;  // `blocks` extents of one block with a hole after each
};

void run_fill(const FillOptions& options);

// Create, stat, rename, unlink.
struct MetaOptions {
  std::string directory;
  unsigned files = 5000;
  std::uint64_t bytes = kBlock;
};

void run_meta(const MetaOptions& options);

// One operation is a pin of one random block and its unpin.
struct PinOptions {
  std::string file;
  double seconds = 1;
};

void run_pin(const PinOptions& options);

// Random blocks, so that neighbours differ in their counts and cannot be kept as one run. Holds
// until its standard input ends.
struct HoldOptions {
  std::string file;
  std::uint64_t pins = 0;
};

void run_hold(const HoldOptions& options);

// Punches random blocks out of a file and writes them again; only the punches are timed.
struct PunchOptions {
  std::string file;
  bool sparse = false;  // the file was made by fill --sparse
  double seconds = 1;
};

void run_punch(const PunchOptions& options);

// Punches that wait at the gate, each of a file of its own, until the standard input ends.
struct WaitOptions {
  std::string directory;
  unsigned waiters = 64;
};

void run_wait(const WaitOptions& options);

// Direct access (daxfs_attach()) beside the bare copy, the same file by system call, and tmpfs.
// Prints nanoseconds for an operation, each the median of many turns.
struct DirectOptions {
  std::string file;
  std::string beside;  // a file on tmpfs
  bool write = false;
  std::uint64_t bytes = kBlock;
  std::uint64_t region = std::uint64_t{64} << 20;
  double seconds = 2;
};

void run_direct(const DirectOptions& options);

}  // namespace daxfs::bench
