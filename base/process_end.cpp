#include "base/process_end.h"

#include <cerrno>
#include <optional>
#include <string>

#include "base/process_stat.h"

namespace daxfs {
namespace {

// A process with more is not searched at each close.
constexpr std::uint64_t kMostThreads = 64;

std::string directory_of(pid_t process) { return "/proc/" + std::to_string(process); }

// Visits the names in a directory of /proc that are numbers, until it says true. Nothing if it
// cannot be read.
template <class Visit>
std::optional<bool> any_number_in(const std::string& directory, const Visit& visit) {
  const DirectoryRef all(::opendir(directory.c_str()));
  if (!all) return std::nullopt;
  while (const dirent* entry = ::readdir(all.get())) {
    if (to_number(entry->d_name) && visit(directory + "/" + entry->d_name)) return true;
  }
  return false;
}

// The first thread can end before the others.
bool all_threads_exit(const std::string& directory, const ProcessStat& first) {
  if (!first.exiting && !first.is_zombie()) return false;
  if (first.threads <= 1) return true;
  const auto lives = any_number_in(directory + "/task", [](const std::string& thread) {
    const auto stat = read_stat(thread);
    return stat && !stat->exiting && !stat->is_zombie();
  });
  return !lives.value_or(false);
}

// Whether one of these children, a list of numbers, has ended and was not waited for yet.
bool any_exits(std::string_view children) {
  while (!children.empty()) {
    const auto end = children.find(' ');
    const std::string_view number = children.substr(0, end);
    children.remove_prefix(end == std::string_view::npos ? children.size() : end + 1);
    if (number.empty()) continue;
    const auto stat = read_stat("/proc/" + std::string(number));
    if (!stat || stat->exiting || stat->is_zombie()) return true;
  }
  return false;
}

bool has_exiting_child(const std::string& directory) {
  const auto found = any_number_in(directory + "/task", [](const std::string& thread) {
    const auto children = read_small_file(thread + "/children");
    // A thread that has ended meanwhile has none. (Nor has a kernel that was built without this.)
    if (!children) return children.error().code != ENOENT && children.error().code != ESRCH;
    constexpr std::size_t kWhole = 4096;
    return children->size() >= kWhole || any_exits(*children);
  });
  return found.value_or(true);
}

}  // namespace

ProcessMark mark_process(pid_t process) {
  ProcessMark mark{.process = process};
  if (process <= 0 || !is_own_proc()) return mark;
  if (const auto stat = read_stat(directory_of(process))) {
    mark.start_ticks = stat->start_ticks;
    mark.reaped = stat->reaped;
    mark.image = stat->image;
  }
  return mark;
}

Ending how_ends(const ProcessMark& then) {
  if (then.process <= 0 || then.start_ticks == 0) return Ending::in_doubt;
  const std::string directory = directory_of(then.process);
  const auto first = read_stat(directory);
  if (!first || first->start_ticks != then.start_ticks) return Ending::in_doubt;
  if (all_threads_exit(directory, *first)) return Ending::ending;
  // A first thread that has ended has no image; an exec would have given its place to another.
  const bool has_image = !first->exiting && !first->is_zombie();
  if ((has_image && first->image != then.image) || first->threads > kMostThreads ||
      has_exiting_child(directory))
    return Ending::in_doubt;
  // Looked at after the children: one that is not among them any more was counted before.
  const auto last = read_stat(directory);
  return last && last->reaped == then.reaped ? Ending::goes_on : Ending::in_doubt;
}

bool is_ending(const ProcessMark& then) {
  if (then.process <= 0 || then.start_ticks == 0) return true;
  const std::string directory = directory_of(then.process);
  const auto stat = read_stat(directory);
  return !stat || stat->start_ticks != then.start_ticks || all_threads_exit(directory, *stat);
}

bool is_gone(const ProcessMark& then) {
  if (then.process <= 0 || then.start_ticks == 0) return false;
  const auto stat = read_stat(directory_of(then.process));
  if (!stat) return stat.error().code == ENOENT || stat.error().code == ESRCH;
  return stat->start_ticks != then.start_ticks || (stat->is_zombie() && stat->threads <= 1);
}

}  // namespace daxfs
