#include "tests/differential/steps.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <vector>

namespace daxfs::differential {
namespace {

constexpr time_t kNow = 1'300'000'000;  // later than any time that a step sets

std::vector<const Step*> all_by_weight() {
  std::vector<const Step*> all;
  for (const auto steps : {name_steps(), data_steps(), space_steps(), mapping_steps(),
                           attribute_steps(), xattr_steps(), pin_steps()}) {
    for (const Step& step : steps) all.insert(all.end(), step.weight, &step);
  }
  return all;
}

std::string shown(const timespec& time) {
  return time.tv_sec > kNow ? "now" : fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
}

}  // namespace

const Step& some_step(Dice& dice) {
  static const std::vector<const Step*> all = all_by_weight();
  return *all[dice.below(all.size())];
}

std::string described(const struct stat& status, bool with_times) {
  // What a directory's size is, and a device's or a pipe's, is each filesystem's own.
  const bool sized = S_ISREG(status.st_mode) || S_ISLNK(status.st_mode);
  std::string text = fmt::format("mode {:o} links {} uid {} gid {} size {} device {}",
                                 status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
                                 sized ? status.st_size : 0, status.st_rdev);
  if (with_times)
    text += fmt::format(" atime {} mtime {}", shown(status.st_atim), shown(status.st_mtim));
  return text;
}

}  // namespace daxfs::differential
