#include "tests/mount/views_pins.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "client/daxfs.h"

namespace daxfs::test {

ViewsPin::ViewsPin(int holder, std::uint64_t id, ByteSpan blocks, bool write)
    : holder_(holder),
      id_(id),
      blocks_(blocks),
      write_(write),
      detached_(blocks.length / kViewsBlock),
      own_(blocks.length),
      unknown_(blocks.length) {
  view_ = static_cast<char*>(daxfs_map(holder, id, &length_));
  if (view_ == nullptr) throw std::runtime_error(std::string("daxfs_map: ") + strerror(errno));
}

ViewsPin::~ViewsPin() {
  if (view_ != nullptr) unpin();
}

int ViewsPin::unpin() {
  daxfs_unmap(view_, length_);
  view_ = nullptr;
  return daxfs_unpin(holder_, id_) == 0 ? 0 : errno;
}

bool ViewsPin::meets(ByteSpan blocks) const {
  const std::uint64_t first = std::max(blocks.first_block(), blocks_.first_block());
  const std::uint64_t end = std::min(blocks.end_block(), blocks_.end_block());
  for (std::uint64_t block = first; block < end; ++block) {
    if (!detached(block)) return true;
  }
  return false;
}

bool ViewsPin::shares(std::uint64_t block, const ViewsPin& other) const {
  const auto has = [block](ByteSpan blocks) {
    return block >= blocks.first_block() && block < blocks.end_block();
  };
  return has(blocks_) && has(other.blocks_) && event_of(block) == other.event_of(block);
}

void ViewsPin::detach(ByteSpan blocks, const ViewsModel& model, std::uint64_t event) {
  const std::uint64_t first = std::max(blocks.first_block(), blocks_.first_block());
  const std::uint64_t end = std::min(blocks.end_block(), blocks_.end_block());
  for (std::uint64_t block = first; block < end; ++block) {
    if (detached(block)) continue;
    detached_[block - blocks_.first_block()] = event;
    const std::uint64_t from = block * kViewsBlock;
    for (std::uint64_t byte = from; byte < from + kViewsBlock; ++byte) {
      own_[byte - blocks_.offset] = model.bytes()[byte];
      // Behind the end of a file there is what was there before.
      unknown_[byte - blocks_.offset] = model.dirty()[byte] != 0 || byte >= model.size() ? 1 : 0;
    }
  }
}

void ViewsPin::store(std::uint64_t offset, std::span<const char> data) {
  std::memcpy(at(offset), data.data(), data.size());
  stored(offset, data);
}

void ViewsPin::stored(std::uint64_t offset, std::span<const char> data) {
  const std::uint64_t first = offset - blocks_.offset;
  std::ranges::copy(data, own_.begin() + static_cast<std::ptrdiff_t>(first));
  std::fill_n(unknown_.begin() + static_cast<std::ptrdiff_t>(first), data.size(), 0);
}

std::string ViewsPin::difference(const ViewsModel& model) const {
  for (std::uint64_t block = blocks_.first_block(); block < blocks_.end_block(); ++block) {
    const std::uint64_t from = block * kViewsBlock;
    if (!detached(block)) {
      const std::uint64_t end = std::min(from + kViewsBlock, model.size());
      if (from >= end) continue;
      const std::string found = model.difference(from, {at(from), end - from}, &model.dirty());
      if (!found.empty()) return "pinned block " + std::to_string(block) + ": " + found;
      continue;
    }
    for (std::uint64_t byte = from; byte < from + kViewsBlock; ++byte) {
      const std::uint64_t i = byte - blocks_.offset;
      if (unknown_[i] == 0 && *at(byte) != own_[i])
        return "byte " + std::to_string(byte) + ", which has left the file, was changed";
    }
  }
  return {};
}

}  // namespace daxfs::test
