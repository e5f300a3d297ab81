// Commands of bench-client for pins and the gate.
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "client/daxfs.h"
#include "tools/benchmark/bench_commands.h"

namespace daxfs::bench {
namespace {

std::uint64_t pin_block(const File& file, std::uint64_t block) {
  daxfs_pin_args args = {};
  args.offset = block * kBlock;
  args.length = kBlock;
  require(ioctl(file.fd(), DAXFS_IOC_PIN, &args) == 0, "pin " + file.path());
  return args.pin_id;
}

// A process of its own, since nobody waits for pins of their own process. Holds a block of each
// file until `go_on` ends.
pid_t fork_holder(const std::vector<std::string>& paths, int go_on, int ready) {
  const pid_t child = fork();
  require(child >= 0, "fork");
  if (child != 0) return child;
  std::vector<std::unique_ptr<File>> files;
  for (const std::string& path : paths) {
    files.push_back(std::make_unique<File>(path, O_RDWR));
    pin_block(*files.back(), 0);
  }
  char byte = 1;
  require(write(ready, &byte, 1) == 1, "write to the parent");
  while (read(go_on, &byte, 1) > 0) {
  }
  _exit(EXIT_SUCCESS);
}

// A file of one block whose own policy is to wait.
void make_waiting_file(const std::string& path) {
  run_fill({.file = path, .blocks = 1});
  const File file(path, O_RDWR);
  const std::string policy = "wait";
  require(fsetxattr(file.fd(), "user.daxfs.pin_policy", policy.data(), policy.size(), 0) == 0,
          "set the policy of " + path);
}

}  // namespace

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

void run_wait(const WaitOptions& options) {
  // One file each: the kernel lets one punch of a file through at a time.
  std::vector<std::string> paths;
  for (unsigned i = 0; i < options.waiters; ++i) {
    paths.push_back(options.directory + "/waiting-" + std::to_string(i));
    make_waiting_file(paths.back());
  }
  int ready[2];
  require(pipe(ready) == 0, "pipe");
  const pid_t holder = fork_holder(paths, STDIN_FILENO, ready[1]);
  close(ready[1]);
  char byte = 0;
  if (read(ready[0], &byte, 1) != 1) throw std::runtime_error("the holder got no pin");
  close(ready[0]);
  std::vector<std::jthread> threads;
  for (const std::string& path : paths) {
    threads.emplace_back([&path] {
      const File file(path, O_RDWR);
      require(fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        static_cast<off_t>(kBlock)) == 0,
              "punch " + path);
    });
  }
  require(waitpid(holder, nullptr, 0) == holder, "wait for the holder");
  threads.clear();
  for (const std::string& path : paths) unlink(path.c_str());
}

}  // namespace daxfs::bench
