#include "tests/mount/views_model.h"

#include <algorithm>
#include <cstring>

namespace daxfs::test {

void ViewsModel::mark(std::vector<char>& mask, ByteSpan range, char value) {
  const std::uint64_t end = std::min(range.end(), kViewsMost);
  if (range.offset < end) std::memset(mask.data() + range.offset, value, end - range.offset);
}

void ViewsModel::known(ByteSpan range) {
  mark(stale_, range, 0);
  mark(dirty_, range, 0);
}

void ViewsModel::dropped() { known({0, kViewsMost}); }

void ViewsModel::write(std::uint64_t offset, std::span<const char> data) {
  std::ranges::copy(data, bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  const ByteSpan range{offset, data.size()};
  size_ = std::max(size_, range.end());
  for (std::uint64_t block = range.first_block(); block < range.end_block(); ++block) {
    subject_[block] = oracle_[block] = Tag::data;
  }
}

void ViewsModel::grow(std::uint64_t size) { size_ = std::max(size_, size); }

void ViewsModel::clear(ByteSpan range) {
  mark(bytes_, range, 0);
  known(range);
}

void ViewsModel::truncate(std::uint64_t size) {
  const std::uint64_t first = ByteSpan{0, size}.end_block();
  const bool shrinks = size < size_;
  if (shrinks) clear({size, kViewsMost - size});
  for (std::uint64_t block = first; block < kViewsBlocks && size <= size_; ++block) {
    subject_[block] = Tag::hole;
    // What ext4 has preallocated behind the end goes only with a smaller size.
    if (shrinks) oracle_[block] = Tag::hole;
  }
  size_ = size;
}

void ViewsModel::punch(ByteSpan range) {
  clear(range);
  const ByteSpan whole = whole_blocks_of(range);
  for (std::uint64_t block = whole.first_block(); block < whole.end_block(); ++block) {
    subject_[block] = Tag::hole;
    // What ext4 has preallocated behind the end stays.
    if (block * kViewsBlock < size_ || oracle_[block] == Tag::data) oracle_[block] = Tag::hole;
  }
  // ext4 takes the last block, too, if all that the file has of it goes.
  if (size_ > 0 && range.end() >= size_) {
    Tag& last = oracle_[(size_ - 1) / kViewsBlock];
    if (last == Tag::data) last = Tag::loose;
  }
}

void ViewsModel::allocate(ByteSpan range, bool keep_size) {
  for (std::uint64_t block = range.first_block(); block < range.end_block(); ++block) {
    if (subject_[block] == Tag::hole) subject_[block] = Tag::loose;
    if (oracle_[block] == Tag::hole) oracle_[block] = Tag::loose;
  }
  if (!keep_size) grow(range.end());
}

void ViewsModel::zero(ByteSpan range, bool keep_size) {
  clear(range);
  allocate(range, keep_size);
  const ByteSpan whole = whole_blocks_of(range);
  for (std::uint64_t block = whole.first_block(); block < whole.end_block(); ++block) {
    subject_[block] = oracle_[block] = Tag::loose;
  }
}

ByteSpan ViewsModel::free_of(const std::vector<char>& mask, ByteSpan range) {
  const auto* const begin = mask.data() + range.offset;
  const auto* const end = begin + range.length;
  const auto* const first = std::find(begin, end, 0);
  const auto* const last = std::find(first, end, 1);
  return {range.offset + static_cast<std::uint64_t>(first - begin),
          static_cast<std::uint64_t>(last - first)};
}

std::string ViewsModel::difference(std::uint64_t offset, std::span<const char> seen,
                                   const std::vector<char>* mask) const {
  const char* const right = bytes_.data() + offset;
  if (std::memcmp(right, seen.data(), seen.size()) == 0) return {};
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (seen[i] == right[i] || (mask != nullptr && (*mask)[offset + i] != 0)) continue;
    return "byte " + std::to_string(offset + i) + " is " +
           std::to_string(static_cast<unsigned char>(seen[i])) + ", not " +
           std::to_string(static_cast<unsigned char>(right[i]));
  }
  return {};
}

std::string ViewsModel::seek_difference(const Tags& tags, std::uint64_t from, bool data,
                                        std::int64_t answer) const {
  const auto said = [&] { return "the answer is " + std::to_string(answer) + ", but "; };
  if (from >= size_) return answer == -1 ? "" : said() + "the file ends before";
  const Tag wanted = data ? Tag::data : Tag::hole;
  const Tag other = data ? Tag::hole : Tag::data;
  // No hole but the end.
  const std::uint64_t limit = answer == -1 ? size_ : static_cast<std::uint64_t>(answer);
  if (answer == -1 && !data) return said() + "the end is a hole";
  if (limit < from || limit > size_) return said() + "that is not in the file";
  for (std::uint64_t at = from; at < limit; at = (at / kViewsBlock + 1) * kViewsBlock) {
    const std::uint64_t block = at / kViewsBlock;
    if (tags[block] == wanted) return said() + "block " + std::to_string(block) + " comes before";
  }
  if (answer == -1 || (!data && limit == size_)) return {};
  if (limit != from && limit % kViewsBlock != 0) return said() + "no block begins there";
  if (tags[limit / kViewsBlock] == other) return said() + "it is the other kind";
  return {};
}

}  // namespace daxfs::test
