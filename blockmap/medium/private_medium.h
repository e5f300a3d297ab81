// A pool that can be changed without anybody noticing: what is changed is copied to DRAM first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockmap/medium/lost_pages.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// Not thread-safe against reading while it is changed.
class PrivateMedium final : public Medium {
 public:
  // `fd` stays the caller's, who keeps it open, for reading at least: a file, or a device-DAX node
  // (which knows no private mappings; so chunks of 2 MiB, its usual alignment, are replaced by
  // copies in DRAM one by one).
  static Outcome<std::unique_ptr<PrivateMedium>> map(int fd, const std::string& path,
                                                     ByteCount length);
  ~PrivateMedium() override;

  void write(PoolOffset to, std::span<const std::byte> data) override;
  void zero(PoolOffset to, ByteCount length) override;
  void store(PoolOffset to, std::span<const std::byte> data) override;
  void fence() override {}
  bool failed() const override { return lost_->any(); }
  bool lost(PoolOffset start, ByteCount length) const override {
    return lost_->any_in(start, length);
  }
  std::string failure() const override { return lost_->failure(fd_); }

 private:
  PrivateMedium(void* reserved, std::size_t reserved_bytes, std::byte* base, ByteCount length,
                int fd);
  std::byte* own(PoolOffset to, std::uint64_t length);

  void* const reserved_;
  const std::size_t reserved_bytes_;
  std::vector<bool> copied_;  // by chunk
  const int fd_;              // the caller's, to ask why something is missing
  std::unique_ptr<LostPages> lost_;
};

}  // namespace daxfs
