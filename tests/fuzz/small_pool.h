// A small populated pool in memory that is the same for every input.
#pragma once

#include <atomic>
#include <functional>
#include <utility>

#include "src/filesystem.h"
#include "src/kernel_cache.h"
#include "tests/fuzz/input.h"

namespace daxfs::fuzz {

// Inodes of the pool: 1 is the root; 2 a file with holes and preallocated blocks, 3 a dense one, 4
// a directory, 5 a file in it, 6 a symbolic link.
inline constexpr std::uint64_t kSparseFile = 2;
inline constexpr std::uint64_t kDenseFile = 3;
inline constexpr std::uint64_t kInnerFile = 5;

// What the filesystem of the pool tells the kernel goes here, and on to a kernel once there is one.
class KernelRelay : public KernelCache {
 public:
  void set_kernel(KernelCache* kernel) { kernel_ = kernel; }

  void invalidate_attributes(InodeNumber inode) override {
    if (kernel_ != nullptr) kernel_.load()->invalidate_attributes(inode);
  }
  void invalidate_data(InodeNumber inode, Dropped done, Asker asker, End end) override {
    if (kernel_ != nullptr) {
      return kernel_.load()->invalidate_data(inode, std::move(done), asker, std::move(end));
    }
    if (done) done(true);
  }
  void truncate_waits(InodeNumber inode) override {
    if (kernel_ != nullptr) kernel_.load()->truncate_waits(inode);
  }
  void truncate_ends(InodeNumber inode) override {
    if (kernel_ != nullptr) kernel_.load()->truncate_ends(inode);
  }
  void wake_poller(HolderId holder) override {
    if (kernel_ != nullptr) kernel_.load()->wake_poller(holder);
  }

 private:
  std::atomic<KernelCache*> kernel_ = nullptr;
};

// Mounts it as the first choice says (every policy, with timeouts of a few milliseconds), lets
// `use` do something and unmount it, and requires that it is sound then. Not thread-safe.
void on_small_pool(Input input, const std::function<void(Filesystem&, Input&)>& use);
// The same, for a kernel.
void on_small_pool(Input input, const std::function<void(Filesystem&, KernelRelay&, Input&)>& use);

}  // namespace daxfs::fuzz
