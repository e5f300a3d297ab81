// What direct access costs beside the bare copy, the same by system call, and tmpfs: in turns, so
// that what else the machine does meets all of them.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "client/daxfs.h"
#include "client/direct_copy.h"
#include "tools/benchmark/bench_commands.h"

namespace daxfs::bench {
namespace {

// One way to do it. Operations a turn, at random places of the region.
struct Way {
  const char* name;
  std::function<void(std::uint64_t offset)> act;
  std::vector<double> turns{};  // nanoseconds for each operation
};

constexpr int kOperations = 2000;

double one_turn(const Way& way, const DirectOptions& options, std::mt19937_64& random) {
  const std::uint64_t places = options.region / options.bytes;
  std::array<std::uint64_t, kOperations> offsets;
  for (std::uint64_t& offset : offsets) offset = random() % places * options.bytes;
  const std::uint64_t begin = now();
  for (const std::uint64_t offset : offsets) way.act(offset);
  return static_cast<double>(now() - begin) / kOperations;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void fill(const File& file, std::uint64_t region) {
  const std::vector<char> some(1 << 20, 'f');
  for (std::uint64_t at = 0; at < region; at += some.size()) {
    require(pwrite(file.fd(), some.data(), some.size(), static_cast<off_t>(at)) ==
                static_cast<ssize_t>(some.size()),
            "write " + file.path());
  }
}

}  // namespace

void run_direct(const DirectOptions& options) {
  const File memory(options.beside, O_RDWR | O_CREAT);
  const File file(options.file, O_RDWR | O_CREAT | O_DIRECT);
  fill(memory, options.region);
  {
    const File cached(options.file, O_RDWR);
    fill(cached, options.region);
  }
  void* const mapped =
      mmap(nullptr, options.region, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd(), 0);
  require(mapped != MAP_FAILED, "mmap");
  auto* const bare = static_cast<std::byte*>(mapped);
  daxfs_direct* const direct = daxfs_attach(file.fd());
  require(direct != nullptr, "daxfs_attach " + options.file);
  void* room = nullptr;
  require(posix_memalign(&room, kBlock, options.bytes) == 0, "memory");
  std::memset(room, 'b', options.bytes);
  const std::size_t length = options.bytes;
  const auto done = [length](ssize_t got, const char* what) {
    require(got == static_cast<ssize_t>(length), what);
  };
  const auto place = [](std::uint64_t offset) { return static_cast<off_t>(offset); };

  std::vector<Way> ways;
  if (options.write) {
    ways = {
        {"copy", [&](std::uint64_t at) { client::copy_in(bare + at, room, length); }},
        {"direct", [&](auto at) { done(daxfs_pwrite(direct, room, length, at), "direct"); }},
        {"fuse", [&](auto at) { done(pwrite(file.fd(), room, length, place(at)), "fuse"); }},
        {"tmpfs", [&](auto at) { done(pwrite(memory.fd(), room, length, place(at)), "tmpfs"); }}};
  } else {
    ways = {
        {"copy", [&](std::uint64_t at) { client::copy_out(room, bare + at, length); }},
        {"direct", [&](auto at) { done(daxfs_pread(direct, room, length, at), "direct"); }},
        {"fuse", [&](auto at) { done(pread(file.fd(), room, length, place(at)), "fuse"); }},
        {"tmpfs", [&](auto at) { done(pread(memory.fd(), room, length, place(at)), "tmpfs"); }}};
  }
  std::mt19937_64 random(7);
  for (const Way& way : ways) {  // everything is mapped, and warm
    for (std::uint64_t at = 0; at < options.region; at += kBlock) {
      if (way.name[0] == 'c' || way.name[0] == 'd') way.act(at / length * length);
    }
  }
  const std::uint64_t until = now() + static_cast<std::uint64_t>(options.seconds * 1e9);
  while (now() < until) {
    for (Way& way : ways) way.turns.push_back(one_turn(way, options, random));
  }
  daxfs_counts counts;
  daxfs_direct_counts(direct, &counts);
  nlohmann::json out{{"by_kernel", counts.by_kernel}};
  for (const Way& way : ways) out[way.name] = median(way.turns);
  std::printf("%s\n", out.dump().c_str());
  daxfs_detach(direct);
  std::free(room);
  munmap(mapped, options.region);
}

}  // namespace daxfs::bench
