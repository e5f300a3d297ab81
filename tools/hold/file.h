// The file that is held, and finding it again when its daemon has died.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "tools/hold/options.h"

namespace daxfs::hold {

// Not thread-safe.
class File {
 public:
  static Outcome<File> open(const Options& options);

  // The same number for the object's whole life.
  int get() const { return fd_.get(); }
  // Removes it if open() made it.
  void undo() const;

  // Its daemon is dead: lets go of the dead mount, so that it can be unmounted.
  void forsake();
  // The same path of a mount of the same pool, freshly opened; -1 if it is not there (yet).
  UniqueFd find_again() const;
  // From now on that descriptor is the file.
  void replace(const UniqueFd& fresh);

 private:
  UniqueFd fd_;
  bool created_ = false;
  int mode_ = 0;
  std::string path_;          // absolute: the working directory may lie in the dead mount
  std::uint64_t device_ = 0;  // the pool's
  std::uint64_t inode_ = 0;
};

}  // namespace daxfs::hold
