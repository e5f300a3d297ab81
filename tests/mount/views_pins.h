// The pins of one file, and what each holder must see where it has mapped them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tests/mount/views_model.h"

namespace daxfs::test {

class ViewsPin {
 public:
  ViewsPin(int holder, std::uint64_t id, ByteSpan blocks, bool write);  // maps it
  ~ViewsPin();
  ViewsPin(const ViewsPin&) = delete;
  ViewsPin& operator=(const ViewsPin&) = delete;

  // 0 or errno.
  int unpin();
  bool write() const { return write_; }
  ByteSpan blocks() const { return blocks_; }
  // Of these (whole) blocks, it has some that are the file's still.
  bool meets(ByteSpan blocks) const;
  // They leave the file: what stands there is its holders' alone from now on. `event` (not 0) is
  // another one each time: pins that have lost a block in the same event share it.
  void detach(ByteSpan blocks, const ViewsModel& model, std::uint64_t event);
  bool detached(std::uint64_t block) const { return event_of(block) != 0; }
  bool shares(std::uint64_t block, const ViewsPin& other) const;
  void store(std::uint64_t offset, std::span<const char> data);
  // Another pin's holder has stored it, to a block that both share.
  void stored(std::uint64_t offset, std::span<const char> data);
  // "" if it sees what the file holds, and what has left the file is as the holder left it.
  std::string difference(const ViewsModel& model) const;

 private:
  char* at(std::uint64_t offset) const { return view_ + (offset - blocks_.offset); }
  std::uint64_t event_of(std::uint64_t block) const {
    return detached_[block - blocks_.first_block()];
  }

  const int holder_;
  const std::uint64_t id_;
  const ByteSpan blocks_;
  const bool write_;
  char* view_ = nullptr;
  std::size_t length_ = 0;
  std::vector<std::uint64_t> detached_;  // for each block: the event, or 0
  std::vector<char> own_;                // of detached blocks
  std::vector<char> unknown_;            // 1 for each byte of own_ that nobody can say
};

}  // namespace daxfs::test
