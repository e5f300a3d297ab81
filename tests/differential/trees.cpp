#include "tests/differential/trees.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "tests/differential/steps.h"

namespace daxfs::differential {
namespace {

constexpr int kFlags = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NOATIME_FL | FS_NODUMP_FL;

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return {"(cannot be listed)"};
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(directory);
  std::ranges::sort(names);
  return names;
}

std::string attributes_of(const std::string& path) {
  std::string list(8192, '\0');
  const ssize_t length = llistxattr(path.c_str(), list.data(), list.size());
  if (length < 0) return fmt::format("{}", errno);
  std::map<std::string, std::string> values;
  for (std::size_t at = 0; at < static_cast<std::size_t>(length);) {
    const std::string name = list.c_str() + at;
    at += name.size() + 1;
    std::string value(8192, '\0');
    const ssize_t got = lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    value.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    values[name] = value;
  }
  std::string text;
  for (const auto& [name, value] : values) {
    text += " " + name + "=";
    for (const char byte : value) text += fmt::format("{:02x}", byte & 0xff);
  }
  return text;
}

std::string target_of(const std::string& path) {
  std::string target(4096, '\0');
  const ssize_t got = readlink(path.c_str(), target.data(), target.size());
  target.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return target;
}

class Comparison {
 public:
  Comparison(const std::array<std::string, 2>& roots,
             const std::function<bool(std::uint64_t)>& has_times)
      : roots_(roots), has_times_(has_times) {}

  std::string of_directory(const std::string& name) {
    const std::vector<std::string> subject = names_in(roots_[kSubject] + name);
    const std::vector<std::string> oracle = names_in(roots_[kOracle] + name);
    if (subject != oracle)
      return fmt::format("{}: the names are {} and {}", name, fmt::join(subject, " "),
                         fmt::join(oracle, " "));
    for (const std::string& entry : subject) {
      if (std::string found = of_entry(name + "/" + entry); !found.empty()) return found;
    }
    return {};
  }

 private:
  std::string of_entry(const std::string& name) {
    struct stat status[2];
    std::string said[2];
    for (const unsigned side : {kSubject, kOracle}) {
      const std::string path = roots_[side] + name;
      if (lstat(path.c_str(), &status[side]) != 0) return name + ": no stat";
    }
    const bool with_times = has_times_(status[kSubject].st_ino);
    for (const unsigned side : {kSubject, kOracle}) {
      const std::string path = roots_[side] + name;
      said[side] = described(status[side], with_times) + attributes_of(path);
      if (S_ISLNK(status[side].st_mode)) said[side] += " to " + target_of(path);
    }
    if (said[kSubject] != said[kOracle])
      return name + ":\n    " + said[kSubject] + "\n    " + said[kOracle];
    const auto [known, is_new] =
        twins_.try_emplace(status[kSubject].st_ino, status[kOracle].st_ino);
    if (known->second != status[kOracle].st_ino) return name + ": a link to another file";
    if (S_ISDIR(status[kSubject].st_mode)) {
      if (std::string found = of_flags(name); !found.empty()) return found;
      return of_directory(name);
    }
    if (!is_new || !S_ISREG(status[kSubject].st_mode)) return {};
    if (std::string found = of_flags(name); !found.empty()) return found;
    return of_content(name);
  }

  std::string of_flags(const std::string& name) {
    int flags[2] = {-1, -1};
    for (const unsigned side : {kSubject, kOracle}) {
      const UniqueFd fd(open((roots_[side] + name).c_str(), O_RDONLY | O_CLOEXEC));
      if (fd && ioctl(fd.get(), FS_IOC_GETFLAGS, &flags[side]) == 0) flags[side] &= kFlags;
    }
    return flags[0] == flags[1] ? "" : fmt::format("{}: flags {} and {}", name, flags[0], flags[1]);
  }

  std::string of_content(const std::string& name) {
    ssize_t got[2] = {};
    for (const unsigned side : {kSubject, kOracle}) {
      const UniqueFd fd(open((roots_[side] + name).c_str(), O_RDONLY | O_CLOEXEC));
      got[side] = read(fd.get(), bytes_[side].get(), kRoom);
    }
    if (got[0] != got[1]) return fmt::format("{}: {} and {} bytes", name, got[0], got[1]);
    const char *subject = bytes_[0].get(), *oracle = bytes_[1].get();
    if (got[0] <= 0 || std::memcmp(subject, oracle, static_cast<std::size_t>(got[0])) == 0)
      return {};
    const auto at = std::mismatch(subject, subject + got[0], oracle);
    return fmt::format("{}: byte {} is {} and {}", name, at.first - subject, *at.first & 0xff,
                       *at.second & 0xff);
  }

  static constexpr std::size_t kRoom = 4 * kMostBytes;
  const std::array<std::string, 2>& roots_;
  const std::function<bool(std::uint64_t)>& has_times_;
  std::map<std::uint64_t, std::uint64_t> twins_;
  std::array<std::unique_ptr<char[]>, 2> bytes_{std::make_unique<char[]>(kRoom),
                                                std::make_unique<char[]>(kRoom)};
};

}  // namespace

std::string difference_of_trees(const std::array<std::string, 2>& roots,
                                const std::function<bool(std::uint64_t inode)>& has_times) {
  return Comparison(roots, has_times).of_directory("");
}

void remove_tree(const std::string& root) {
  struct stat status {};
  if (lstat(root.c_str(), &status) != 0) return;
  if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
    const UniqueFd fd(open(root.c_str(), O_RDONLY | O_CLOEXEC));
    int flags = 0;
    if (fd && ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) == 0 && (flags & kFlags) != 0) {
      flags &= ~kFlags;
      ioctl(fd.get(), FS_IOC_SETFLAGS, &flags);
    }
  }
  if (!S_ISDIR(status.st_mode)) {
    unlink(root.c_str());
    return;
  }
  for (const std::string& name : names_in(root)) remove_tree(root + "/" + name);
  rmdir(root.c_str());
}

}  // namespace daxfs::differential
