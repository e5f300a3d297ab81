// Asking the daemon: finds a descriptor for any path of a mount and walks the answer.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace daxfs::ctl {

using Json = nlohmann::ordered_json;

// A mount to ask, through the mount point or any path in it. A path that cannot be opened without
// side effects (a pipe, a device) or at all stands for its directory.
class Mount {
 public:
  static Outcome<Mount> at(const std::string& path);
  // The path itself, which must be a regular file: for questions about one file.
  static Outcome<Mount> file(const std::string& path);

  // One JSON object after the other, until `each` returns false. `what` is a DAXFS_QUERY_*.
  Outcome<void> query(std::uint32_t what, const std::function<bool(const Json&)>& each) const;
  // For questions with one object as their answer.
  Outcome<Json> query_one(std::uint32_t what) const;
  // Settings as DAXFS_IOC_POLICY takes them.
  Outcome<void> set_policy(const std::string& settings) const;
  // A file of the mount's control directory, opened for reading; reads do not wait.
  Outcome<UniqueFd> open_control(const char* name, int flags = O_RDONLY) const;
  // All that such a file says.
  Outcome<std::string> read_control(const char* name) const;
  // Whether this process may switch policies: root, and who has mounted.
  bool may_switch() const;

 private:
  Outcome<void> check_is_ours() const;
  Mount(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  UniqueFd fd_;
};

}  // namespace daxfs::ctl
