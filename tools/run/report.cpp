#include "tools/run/report.h"

#include <fmt/format.h>

namespace daxfs::run {
namespace {

struct Line {
  Way way;
  const char* words;
};

constexpr Line kByKernel[] = {
    {Way::grows, "made the file longer, or met a hole"},
    {Way::closed, "the file was closed for copies"},
    {Way::refused, "files that are not attached"},
    {Way::forked, "in a child, with its parent's files"},
    {Way::unusual, "O_APPEND, flags, odd buffers, signals"},
};

std::uint64_t sum(const Counters& counters, bool write, Way way) {
  std::uint64_t all = 0;
  for (const Counters::Lane& lane : counters.lanes)
    all += (write ? lane.writes : lane.reads)[static_cast<std::size_t>(way)];
  return all;
}

}  // namespace

std::string report(const Counters& counters) {
  const auto line = [&](const char* words, Way way) {
    return fmt::format("{:<40}{:>14}{:>14}\n", words, sum(counters, false, way),
                       sum(counters, true, way));
  };
  std::string text =
      fmt::format("daxfs-run: {} processes, {} files attached, {} could not be\n",
                  counters.processes.load(), counters.attached.load(), counters.refused.load());
  text += fmt::format("{:<40}{:>14}{:>14}\n", "", "reads", "writes");
  text += line("copied, without a system call", Way::copied);
  std::uint64_t others = 0;
  for (const Line& one : kByKernel) {
    const std::uint64_t here = sum(counters, false, one.way) + sum(counters, true, one.way);
    if (here != 0) text += line(one.words, one.way);
    others += here;
  }
  if (others == 0) text += fmt::format("{:<40}{:>14}{:>14}\n", "by system call", 0, 0);
  text += fmt::format("before the files were attached: {}\n", counters.early.load());
  text += fmt::format("fsync: {} without a system call, {} with one\n", counters.fences.load(),
                      counters.fsyncs.load());
  return text;
}

}  // namespace daxfs::run
