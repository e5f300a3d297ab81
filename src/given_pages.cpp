#include "src/given_pages.h"

#include <algorithm>
#include <cstring>

namespace daxfs {
namespace {

// The part of one page that lies within [offset, offset + length).
struct Part {
  std::uint64_t block;
  std::size_t in_page;
  std::size_t in_data;
  std::size_t length;
  bool whole() const { return length == kBlockSize; }
};

template <class Visit>
void for_each_page(std::uint64_t offset, std::size_t length, Visit visit) {
  for (std::size_t at = 0; at < length;) {
    const std::uint64_t byte = offset + at;
    const std::size_t in_page = byte % kBlockSize;
    const std::size_t here = std::min<std::size_t>(kBlockSize - in_page, length - at);
    visit(Part{byte / kBlockSize, in_page, at, here});
    at += here;
  }
}

}  // namespace

bool GivenPages::remember(Key key, std::span<const std::byte> data) {
  const auto found = pages_.find(key);
  if (found == pages_.end() && pages_.size() >= kMost) return false;
  Page& page = found != pages_.end() ? found->second : pages_[key];
  page.given = ++time_;
  if (!page.bytes) page.bytes = std::make_unique<Bytes>();
  std::memcpy(page.bytes->data(), data.data(), data.size());
  std::memset(page.bytes->data() + data.size(), 0, kBlockSize - data.size());
  return true;
}

bool GivenPages::given(InodeNumber inode, FileOffset offset, std::span<const std::byte> data,
                       std::span<const FileRange> pinned) {
  const auto is_pinned = [&](std::uint64_t block) {
    return std::ranges::any_of(pinned, [block](const FileRange& range) {
      return block >= range.start.value && block < range.end().value;
    });
  };
  if (offset.value % kBlockSize != 0) return true;  // not for pages
  bool room = true;
  const MutexLock guard(mutex_);
  for_each_page(offset.value, data.size(), [&](const Part& part) {
    mutex_.assert_held();
    const Key key{inode.value, part.block};
    if (is_pinned(part.block) && remember(key, data.subspan(part.in_data, part.length))) return;
    room = room && !is_pinned(part.block);
    pages_.erase(key);
  });
  recount();
  return room;
}

void GivenPages::forget(InodeNumber inode, FileRange blocks) {
  if (!any()) return;
  const MutexLock guard(mutex_);
  pages_.erase(pages_.lower_bound({inode.value, blocks.start.value}),
               pages_.lower_bound({inode.value, blocks.end().value}));
  recount();
}

void GivenPages::forget(InodeNumber inode) { forget_until(inode, UINT64_MAX); }

void GivenPages::forget_until(InodeNumber inode, std::uint64_t time) {
  if (!any()) return;
  const MutexLock guard(mutex_);
  for (auto it = pages_.lower_bound({inode.value, 0});
       it != pages_.end() && it->first.first == inode.value;) {
    it = it->second.given <= time ? pages_.erase(it) : std::next(it);
  }
  recount();
}

void GivenPages::written(InodeNumber inode, FileOffset offset, std::span<const std::byte> data,
                         bool pinned) {
  if (!pinned && !any()) return;
  const MutexLock guard(mutex_);
  for_each_page(offset.value, data.size(), [&](const Part& part) {
    mutex_.assert_held();
    const Key key{inode.value, part.block};
    const auto bytes = data.subspan(part.in_data, part.length);
    if (part.whole()) {
      if (!pinned || !remember(key, bytes)) pages_.erase(key);
    } else if (const auto found = pages_.find(key); found != pages_.end()) {
      std::memcpy(found->second.bytes->data() + part.in_page, bytes.data(), bytes.size());
    }
  });
  recount();
}

void GivenPages::zeroed(InodeNumber inode, FileOffset offset, ByteCount length) {
  if (!any()) return;
  const std::uint64_t end =
      length.value > UINT64_MAX - offset.value ? UINT64_MAX : offset.value + length.value;
  const MutexLock guard(mutex_);
  for (auto it = pages_.lower_bound({inode.value, offset.value / kBlockSize});
       it != pages_.end() && it->first.first == inode.value;) {
    const std::uint64_t begin = it->first.second * kBlockSize;
    if (begin >= end) break;
    const std::uint64_t from = std::max(begin, offset.value);
    const std::uint64_t to = std::min(begin + kBlockSize, end);
    if (to - from == kBlockSize) {
      it = pages_.erase(it);
      continue;
    }
    std::memset(it->second.bytes->data() + (from - begin), 0, to - from);
    ++it;
  }
  recount();
}

std::vector<GivenPages::Piece> GivenPages::changes(InodeNumber inode, FileOffset offset,
                                                   std::span<const std::byte> data) {
  std::vector<Piece> pieces;
  const auto add = [&](std::size_t from, std::size_t length) {
    if (!pieces.empty() && pieces.back().from + pieces.back().length == from) {
      pieces.back().length += length;
    } else {
      pieces.push_back({from, length});
    }
  };
  const MutexLock guard(mutex_);
  for_each_page(offset.value, data.size(), [&](const Part& part) {
    mutex_.assert_held();
    const auto found = pages_.find({inode.value, part.block});
    if (found == pages_.end()) return add(part.in_data, part.length);
    std::byte* const known = found->second.bytes->data() + part.in_page;
    const std::byte* const now = data.data() + part.in_data;
    for (std::size_t i = 0; i < part.length;) {
      const std::size_t from = i;
      while (i < part.length && now[i] != known[i]) ++i;
      if (i > from) add(part.in_data + from, i - from);
      while (i < part.length && now[i] == known[i]) ++i;
    }
    std::memcpy(known, now, part.length);
  });
  return pieces;
}

}  // namespace daxfs
