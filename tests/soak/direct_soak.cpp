// direct_soak DIRECTORY SECONDS READERS WRITERS [stop] [kill] [deaths]
//
// Clients of direct access beside detaches of every kind (tests/mount/direct_run.h). Prints what
// was done. Exit status: 0 nothing foreign was seen, 1 something was, 2 usage, 3 a call failed.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "tests/mount/direct_run.h"

int main(int count, char** words) {
  if (count < 5) {
    std::fprintf(stderr,
                 "usage: direct_soak DIRECTORY SECONDS READERS WRITERS [stop] [kill] [deaths]\n");
    return 2;
  }
  daxfs::test::DirectRun run{.seconds = std::atof(words[2]),
                             .readers = std::atoi(words[3]),
                             .writers = std::atoi(words[4])};
  for (int i = 5; i < count; ++i) {
    run.stop_clients = run.stop_clients || std::strcmp(words[i], "stop") == 0;
    run.daemon_dies = run.daemon_dies || std::strcmp(words[i], "deaths") == 0;
    run.kill_clients = run.kill_clients || std::strcmp(words[i], "kill") == 0;
  }
  try {
    const auto found = daxfs::test::run_direct(words[1], run);
    std::printf(
        "%llu direct, %llu by system call, %llu detaches, %llu refused, %llu foreign lines\n",
        static_cast<unsigned long long>(found.direct),
        static_cast<unsigned long long>(found.by_kernel),
        static_cast<unsigned long long>(found.detaches),
        static_cast<unsigned long long>(found.refused),
        static_cast<unsigned long long>(found.foreign));
    if (found.foreign != 0) std::fprintf(stderr, "%s\n", found.first.c_str());
    return found.foreign == 0 ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 3;
  }
}
