#include "client/direct_extents.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace daxfs::client {
namespace {

// Of a file in more pieces, what lies behind goes through the kernel.
constexpr std::size_t kMostExtents = 1u << 20;

bool is_sound(const daxfs_extent& extent, std::uint64_t from, std::uint64_t pool_length) {
  const std::uint64_t bits = extent.file_offset | extent.pool_offset | extent.length;
  return bits % DAXFS_BLOCK_SIZE == 0 && extent.length != 0 && extent.file_offset >= from &&
         extent.file_offset <= INT64_MAX && extent.length <= INT64_MAX - extent.file_offset &&
         extent.pool_offset <= pool_length && extent.length <= pool_length - extent.pool_offset;
}

class Builder {
 public:
  Builder() = default;
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;
  ~Builder() { std::free(made_); }

  Extents* made() const { return made_; }
  Extents* take() {
    Extents* const out = made_;
    made_ = nullptr;
    return out;
  }
  bool append(const daxfs_extent* some, std::size_t count) {
    const std::size_t before = made_ != nullptr ? made_->count : 0;
    if (before + count > room_ || made_ == nullptr) {
      room_ = std::max<std::size_t>(2 * room_, before + count + 1);
      void* const grown = std::realloc(made_, sizeof(Extents) + room_ * sizeof(daxfs_extent));
      if (grown == nullptr) return false;
      made_ = static_cast<Extents*>(grown);
      made_->count = before;
    }
    if (count != 0) std::memcpy(made_->extents + before, some, count * sizeof *some);
    made_->count = before + count;
    return true;
  }

 private:
  Extents* made_ = nullptr;
  std::size_t room_ = 0;
};

}  // namespace

Extents::Piece Extents::at(std::uint64_t offset, std::uint64_t length) const {
  const daxfs_extent* const behind =
      std::upper_bound(extents, extents + count, offset,
                       [](std::uint64_t at, const daxfs_extent& e) { return at < e.file_offset; });
  if (behind != extents) {
    const daxfs_extent& here = behind[-1];
    const std::uint64_t into = offset - here.file_offset;
    if (into < here.length) {
      return {(here.flags & DAXFS_EXTENT_UNWRITTEN) != 0, here.pool_offset + into,
              std::min(length, here.length - into)};
    }
  }
  const std::uint64_t until = behind != extents + count ? behind->file_offset : UINT64_MAX;
  return {true, 0, std::min(length, until - offset)};
}

Extents* ask_for_extents(int fd, std::uint64_t pin_id, std::uint64_t pool_length) {
  auto* const args = static_cast<daxfs_direct_args*>(std::malloc(sizeof(daxfs_direct_args)));
  if (args == nullptr) return nullptr;
  Builder builder;
  std::uint64_t from = 0;
  bool closed = false;
  bool failed = false;
  for (bool more = true; more && !closed && !failed;) {
    std::memset(args, 0, offsetof(daxfs_direct_args, extents));
    args->pin_id = pin_id;
    args->offset = from;
    args->length = static_cast<std::uint64_t>(INT64_MAX) - from;
    if (ioctl(fd, DAXFS_IOC_DIRECT, args) < 0) {
      failed = true;
      break;
    }
    Extents* const made = builder.made();
    const bool changed =
        made != nullptr && (made->epoch != args->epoch || made->additions != args->additions);
    closed = args->epoch == DAXFS_EPOCH_NONE || changed;  // the next try sees it whole
    if (closed) break;
    failed = args->count > DAXFS_EXTENTS_PER_CALL;
    for (std::uint32_t i = 0; i < args->count && !failed; ++i) {
      failed = !is_sound(args->extents[i], from, pool_length);
      from = args->extents[i].file_offset + args->extents[i].length;
    }
    if (failed || !builder.append(args->extents, args->count)) {
      errno = failed ? EIO : ENOMEM;
      failed = true;
      break;
    }
    more = args->more != 0 && args->count != 0;
    Extents& now = *builder.made();
    now.epoch = args->epoch;
    now.additions = args->additions;
    now.end = more ? from : UINT64_MAX;
    more = more && now.count < kMostExtents;
  }
  std::free(args);
  if (failed) return nullptr;
  if (closed) {
    errno = 0;
    return nullptr;
  }
  return builder.take();
}

}  // namespace daxfs::client
