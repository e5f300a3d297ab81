// What /proc says of a process, read once and in one place.
#pragma once

#include <dirent.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace daxfs {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using DirectoryRef = std::unique_ptr<DIR, CloseDirectory>;

// A file in /proc that fits into a page.
Result<std::string> read_small_file(const std::string& path);
Result<std::uint64_t> to_number(std::string_view text);
// The command name of a process, "" if it is gone.
std::string command_of(pid_t process);
// The inode number of a namespace's file; 0 if there is none.
std::uint32_t namespace_inode(const std::string& path);

// A process's numbers, beginning in the pid namespace of this /proc, down to its own.
std::vector<pid_t> numbers_of(const std::string& directory);
// Whether /proc shows this process's own pid namespace. A container without a /proc of its own sees
// other processes under the numbers that it knows.
bool is_own_proc();

// Of /proc/PID/stat, or of a thread's.
struct ProcessStat {
  char state = 0;
  bool exiting = false;  // its exit has begun: it submits nothing any more (PF_EXITING)
  bool kernel_thread = false;
  std::uint64_t threads = 0;
  std::uint64_t start_ticks = 0;  // as this time namespace shows them
  // What its children had done that it has waited for: page faults. Each process has some.
  std::uint64_t reaped = 0;
  // Where program and stack lie: elsewhere after each exec, unless randomisation is off. 0 where
  // this user may not know.
  std::uint64_t image = 0;

  bool is_zombie() const { return state == 'Z' || state == 'X'; }
};
// `directory`: /proc/PID, or a thread's. EIO where it is not as proc(5) says.
Result<ProcessStat> read_stat(const std::string& directory);

// Clock ticks as the initial time namespace counts them. EACCES where that cannot be told.
Result<std::uint64_t> in_initial_time(std::uint64_t ticks);

}  // namespace daxfs
