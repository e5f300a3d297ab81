// A mount of ours that is there, as the daxfs command asks its daemon and the kernel about it.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "src/options.h"
#include "tools/ctl/query.h"

namespace daxfs {

class LiveMount {
 public:
  // ENOTTY: no daxfs is mounted there, or one of another pool; ENOTCONN: its daemon has died.
  static Outcome<LiveMount> of(const std::string& pool, const std::string& mountpoint);

  const std::string& path() const { return path_; }
  // Not only a directory of it is mounted there.
  bool is_whole() const;
  // MS_* of mount(2), as the mount has them now.
  Result<unsigned long> flags() const;
  Outcome<ctl::Json> status() const;
  // Each knob of the policy, a line each. Precondition: is_whole().
  Outcome<std::string> policy() const;
  Outcome<void> set_policy(const std::string& settings) const;
  // The daemon's side of remount,ro and rw.
  Outcome<void> set_read_only(bool read_only) const;

 private:
  LiveMount(std::string path, UniqueFd fd, ctl::Mount mount)
      : path_(std::move(path)), fd_(std::move(fd)), mount_(std::move(mount)) {}

  std::string path_;
  UniqueFd fd_;
  ctl::Mount mount_;  // what daxfsctl asks
};

// What -o asks for and is otherwise there, of what stays as it was mounted (cache=, access times,
// acl); nothing if all is so.
struct Difference {
  std::string now;
  std::string wanted;
};
std::optional<Difference> difference(const ctl::Json& status, const MountOptions& options);

// What the words of -o make of them: nosuid, nodev and noexec come, of these only noexec goes,
// since mount.fuse3 names suid and dev unasked.
unsigned long with_words(unsigned long flags, const MountOptions& options);

}  // namespace daxfs
