#include "tools/ctl/query.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <optional>

#include "client/daxfs.h"

namespace daxfs::ctl {
namespace {

constexpr int kOpenFlags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

Problem explain(int code, const std::string& path) {
  switch (code) {
    case ENOTTY:
    case ENOSYS:
      return {path + ": not on a daxfs mount", code};
    case ENOTCONN:
    case ECONNABORTED:
      return {path + ": the daemon of this mount is gone: umount it and mount it again", code};
    default:
      return {fmt::format("{}: {}", path, std::strerror(code)), code};
  }
}

// The directory that contains the path, if it is on the same filesystem: from a mount point one
// would step out of the mount.
std::optional<UniqueFd> open_directory_of(const std::string& path, const struct stat& status) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  UniqueFd fd(open(parent.empty() ? "." : parent.c_str(), kOpenFlags | O_DIRECTORY));
  struct stat above;
  if (!fd || fstat(fd.get(), &above) < 0 || above.st_dev != status.st_dev) return std::nullopt;
  return fd;
}

}  // namespace

Outcome<Mount> Mount::at(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) < 0 && lstat(path.c_str(), &status) < 0) {
    return std::unexpected(explain(errno, path));
  }
  int code = 0;
  if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
    UniqueFd fd(open(path.c_str(), kOpenFlags));
    if (fd) return Mount(path, std::move(fd));
    code = errno;
  }
  if (auto directory = open_directory_of(path, status)) return Mount(path, std::move(*directory));
  return std::unexpected(explain(code != 0 ? code : ENOTTY, path));
}

Outcome<Mount> Mount::file(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) < 0) return std::unexpected(explain(errno, path));
  if (!S_ISREG(status.st_mode)) {
    return problem(EINVAL, path + ": not a regular file: only those have extents");
  }
  UniqueFd fd(open(path.c_str(), kOpenFlags));
  if (!fd) return std::unexpected(explain(errno, path));
  return Mount(path, std::move(fd));
}

// Other filesystems' files may understand an ioctl's number as something else.
Outcome<void> Mount::check_is_ours() const {
  struct statfs filesystem;
  if (fstatfs(fd_.get(), &filesystem) < 0) return std::unexpected(explain(errno, path_));
  if (filesystem.f_type != FUSE_SUPER_MAGIC) return std::unexpected(explain(ENOTTY, path_));
  return {};
}

Outcome<void> Mount::query(std::uint32_t what, const std::function<bool(const Json&)>& each) const {
  if (const auto ours = check_is_ours(); !ours) return ours;
  const auto senseless = [&] {
    return problem(EPROTO,
                   path_ + ": its daemon's answer makes no sense: is it of another version?");
  };
  daxfs_query_args args = {};
  args.what = what;
  std::string pending;  // a line whose end is in the next answer
  while (args.cursor != DAXFS_QUERY_END) {
    const std::uint64_t asked_from = args.cursor;
    args.length = 0;
    if (ioctl(fd_.get(), DAXFS_IOC_QUERY, &args) < 0) return std::unexpected(explain(errno, path_));
    if (args.length > sizeof args.text || args.cursor == asked_from) return senseless();
    pending.append(args.text, args.length);

    std::size_t begin = 0;
    for (;;) {
      std::size_t end = pending.find('\n', begin);
      if (end == std::string::npos && args.cursor == DAXFS_QUERY_END) end = pending.size();
      if (end == std::string::npos || begin >= pending.size()) break;
      const auto line = std::string_view(pending).substr(begin, end - begin);
      begin = end + 1;
      if (line.empty()) continue;
      const Json object = Json::parse(line, nullptr, false);
      if (!object.is_object()) return senseless();
      if (!each(object)) return {};
    }
    pending.erase(0, begin);
  }
  return {};
}

Outcome<Json> Mount::query_one(std::uint32_t what) const {
  Json answer;
  const auto asked = query(what, [&](const Json& object) {
    answer = object;
    return false;
  });
  if (!asked) return std::unexpected(asked.error());
  if (!answer.is_object()) {
    return problem(EPROTO, path_ + ": its daemon gave no answer: is it of another version?");
  }
  return answer;
}

Outcome<void> Mount::set_policy(const std::string& settings) const {
  if (const auto ours = check_is_ours(); !ours) return ours;
  daxfs_policy_args args = {};
  if (settings.size() > sizeof args.text) {
    return problem(EINVAL, path_ + ": too many settings at once");
  }
  std::memcpy(args.text, settings.data(), settings.size());
  args.length = static_cast<std::uint32_t>(settings.size());
  if (ioctl(fd_.get(), DAXFS_IOC_POLICY, &args) == 0) return {};
  const int code = errno;
  // The daemon says what is wrong, unless the call has not come so far.
  if ((code != EINVAL && code != EPERM) || args.length > sizeof args.text || args.length == 0) {
    return std::unexpected(explain(code, path_));
  }
  return problem(code, fmt::format("{}: {}", path_, std::string_view(args.text, args.length)));
}

Outcome<UniqueFd> Mount::open_control(const char* name, int flags) const {
  if (const auto ours = check_is_ours(); !ours) return std::unexpected(ours.error());
  // Up to the mount's root: where the next step would lead out of the filesystem.
  struct stat status;
  if (fstat(fd_.get(), &status) < 0) return std::unexpected(explain(errno, path_));
  std::optional<UniqueFd> at;
  if (S_ISDIR(status.st_mode)) {
    at = UniqueFd(openat(fd_.get(), ".", kOpenFlags | O_DIRECTORY));
  } else {
    at = open_directory_of(path_, status);
  }
  for (;;) {
    if (!at || !*at) return std::unexpected(explain(errno, path_));
    UniqueFd above(openat(at->get(), "..", kOpenFlags | O_DIRECTORY));
    struct stat parent;
    struct stat here;
    if (!above || fstat(above.get(), &parent) < 0 || fstat(at->get(), &here) < 0) {
      return std::unexpected(explain(errno, path_));
    }
    if (parent.st_dev != status.st_dev || parent.st_ino == here.st_ino) break;
    at = std::move(above);
  }
  const std::string file = std::string(".daxfs/") + name;
  UniqueFd fd(openat(at->get(), file.c_str(), kOpenFlags | flags));
  if (fd) return fd;
  if (errno == EACCES || errno == EPERM) {
    return problem(
        EPERM, fmt::format("{}: only root and the user who mounted may use its {}", path_, name));
  }
  if (errno == ENOENT) {
    return problem(ENOENT, fmt::format("{}: no {} in what is mounted there: is it only a part of a "
                                       "mount (bind), or a daemon of another version?",
                                       path_, file));
  }
  return std::unexpected(explain(errno, path_));
}

Outcome<std::string> Mount::read_control(const char* name) const {
  const auto fd = open_control(name);
  if (!fd) return std::unexpected(fd.error());
  std::string text;
  std::array<char, 16384> buffer;
  for (;;) {
    const ssize_t got = read(fd->get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected(explain(errno, fmt::format("{}: .daxfs/{}", path_, name)));
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

bool Mount::may_switch() const {
  if (geteuid() == 0) return true;
  const auto policy = open_control("policy");
  struct stat status;
  return policy && fstat(policy->get(), &status) == 0 && status.st_uid == geteuid();
}

}  // namespace daxfs::ctl
