// A daxfs and an ext4 in a directory of their own, in a mount namespace of their own: gone at the
// end, whatever ends the program.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

namespace daxfs::differential {

// This machine, or this user, cannot do it.
struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs a program. "", or what went wrong, with what it said.
std::string run_program(const std::vector<std::string>& words);

class Filesystems {
 public:
  // `build`: where daxfs, mkfs.daxfs and fsck.daxfs are. Throws Skip.
  explicit Filesystems(const std::string& build);
  ~Filesystems();
  Filesystems(const Filesystems&) = delete;
  Filesystems& operator=(const Filesystems&) = delete;

  // Mounts daxfs with this cache=, after fsck.daxfs has found nothing. "", or what went wrong.
  std::string remount(const std::string& cache);
  std::array<std::string, 2> directories() const;

 private:
  std::string unmount();
  std::string in(const std::string& name) const { return place_ + "/" + name; }

  const std::string build_;
  std::string place_;
  bool mounted_ = false;
};

}  // namespace daxfs::differential
