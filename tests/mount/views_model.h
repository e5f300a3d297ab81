// What one file must hold, whichever way one looks at it, after a history of changes through page
// cache, O_DIRECT, mappings and pins; and where its two implementations must report data or a hole.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace daxfs::test {

inline constexpr std::uint64_t kViewsBlock = 4096;
inline constexpr std::uint64_t kViewsBlocks = 40;
inline constexpr std::uint64_t kViewsMost = kViewsBlock * kViewsBlocks;

struct ByteSpan {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t end() const { return offset + length; }
  std::uint64_t first_block() const { return offset / kViewsBlock; }
  std::uint64_t end_block() const { return (end() + kViewsBlock - 1) / kViewsBlock; }
};

// What SEEK_DATA and SEEK_HOLE must say of a block. `loose`: it has space and holds nothing but
// zeroes, so both are right (ext4 calls a preallocated block data as soon as somebody has read it
// through the page cache).
enum class Tag : std::uint8_t { hole, data, loose };
using Tags = std::array<Tag, kViewsBlocks>;

class ViewsModel {
 public:
  ViewsModel() : bytes_(kViewsMost), stale_(kViewsMost), dirty_(kViewsMost) {}

  std::uint64_t size() const { return size_; }
  const std::vector<char>& bytes() const { return bytes_; }
  Tags& subject() { return subject_; }
  Tags& oracle() { return oracle_; }

  // --- changes, as every view must show them ---
  void write(std::uint64_t offset, std::span<const char> data);
  void grow(std::uint64_t size);
  void truncate(std::uint64_t size);
  void punch(ByteSpan range);
  void zero(ByteSpan range, bool keep_size);
  void allocate(ByteSpan range, bool keep_size);

  // --- what a view may not know yet ---
  // Stored by the holder of a pin since the kernel last dropped the file's pages: descriptors that
  // were opened before may still show what was there.
  void mark_stale(ByteSpan range) { mark(stale_, range, 1); }
  // Stored through an ordinary mapping since the kernel last wrote the file's pages: the medium may
  // still have what was there.
  void mark_dirty(ByteSpan range) { mark(dirty_, range, 1); }
  void flushed(ByteSpan range) { mark(dirty_, range, 0); }
  void known(ByteSpan range);  // both: everybody sees these bytes
  void dropped();              // all of the file's pages are written and gone
  const std::vector<char>& stale() const { return stale_; }
  const std::vector<char>& dirty() const { return dirty_; }
  // The beginning of the range that no byte of the mask is in.
  static ByteSpan free_of(const std::vector<char>& mask, ByteSpan range);

  // "" if `seen` is what stands at `offset`, but for bytes of the mask (may be null).
  std::string difference(std::uint64_t offset, std::span<const char> seen,
                         const std::vector<char>* mask) const;
  // "" if SEEK_DATA (or SEEK_HOLE) may answer so (-1: ENXIO).
  std::string seek_difference(const Tags& tags, std::uint64_t from, bool data,
                              std::int64_t answer) const;

 private:
  static void mark(std::vector<char>& mask, ByteSpan range, char value);
  void clear(ByteSpan range);

  std::uint64_t size_ = 0;
  std::vector<char> bytes_;  // zeroes behind the end
  Tags subject_{}, oracle_{};
  std::vector<char> stale_, dirty_;  // 1 for each byte
};

// The whole blocks within a range: what a punch takes away.
inline ByteSpan whole_blocks_of(ByteSpan range) {
  const std::uint64_t first = (range.offset + kViewsBlock - 1) / kViewsBlock * kViewsBlock;
  const std::uint64_t end = range.end() / kViewsBlock * kViewsBlock;
  return {first, end > first ? end - first : 0};
}

}  // namespace daxfs::test
