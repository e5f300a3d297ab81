// Strong types for positions and lengths. Mixing units (blocks and bytes, file and pool) is the
// classic bug of a filesystem; here it does not compile.
//
// A *position* is a place (FileBlock, PoolBlock, FileOffset, PoolOffset); a *quantity* is an amount
// (BlockCount, ByteCount). position - position = quantity; position + quantity = position.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace daxfs {

inline constexpr std::uint64_t kBlockSize = 4096;
inline constexpr std::uint64_t kBlockShift = 12;

template <class Tag>
struct Quantity {
  std::uint64_t value = 0;

  constexpr Quantity() = default;
  constexpr explicit Quantity(std::uint64_t v) : value(v) {}
  constexpr auto operator<=>(const Quantity&) const = default;
  constexpr Quantity operator+(Quantity o) const { return Quantity(value + o.value); }
  constexpr Quantity operator-(Quantity o) const { return Quantity(value - o.value); }
  constexpr Quantity& operator+=(Quantity o) { return value += o.value, *this; }
  constexpr Quantity& operator-=(Quantity o) { return value -= o.value, *this; }
};

template <class Tag, class Distance>
struct Position {
  std::uint64_t value = 0;

  constexpr Position() = default;
  constexpr explicit Position(std::uint64_t v) : value(v) {}
  constexpr auto operator<=>(const Position&) const = default;
  constexpr Position operator+(Distance d) const { return Position(value + d.value); }
  constexpr Position operator-(Distance d) const { return Position(value - d.value); }
  constexpr Distance operator-(Position o) const { return Distance(value - o.value); }
  constexpr Position& operator+=(Distance d) { return value += d.value, *this; }
};

using BlockCount = Quantity<struct BlockTag>;
using ByteCount = Quantity<struct ByteTag>;
using FileBlock = Position<struct FileTag, BlockCount>;  // block index within a file
using PoolBlock = Position<struct PoolTag, BlockCount>;  // block index within the pool
using FileOffset = Position<struct FileTag, ByteCount>;  // byte offset within a file
using PoolOffset = Position<struct PoolTag, ByteCount>;  // byte offset within the pool

struct InodeNumber {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const InodeNumber&) const = default;
};
inline constexpr InodeNumber kRootInode{1};

// Half-open runs of blocks: [start, start + count).
template <class Block>
struct BlockRun {
  Block start;
  BlockCount count;

  constexpr auto operator<=>(const BlockRun&) const = default;
  constexpr Block end() const { return start + count; }
  constexpr bool empty() const { return count.value == 0; }
};
using FileRange = BlockRun<FileBlock>;
using PoolRange = BlockRun<PoolBlock>;

constexpr ByteCount bytes(BlockCount n) { return ByteCount(n.value << kBlockShift); }
constexpr FileOffset offset_of(FileBlock b) { return FileOffset(b.value << kBlockShift); }
constexpr PoolOffset offset_of(PoolBlock b) { return PoolOffset(b.value << kBlockShift); }
// The block that contains a byte.
constexpr FileBlock block_of(FileOffset o) { return FileBlock(o.value >> kBlockShift); }
constexpr PoolBlock block_of(PoolOffset o) { return PoolBlock(o.value >> kBlockShift); }
// Blocks needed to hold so many bytes.
constexpr BlockCount blocks_for(ByteCount n) {
  return BlockCount((n.value >> kBlockShift) + ((n.value & (kBlockSize - 1)) != 0 ? 1 : 0));
}
// Every block that [offset, offset + length) touches. length may be 0 (empty result).
constexpr FileRange covering(FileOffset offset, ByteCount length) {
  if (length.value == 0) return {block_of(offset), BlockCount(0)};
  const FileBlock first = block_of(offset);
  const FileBlock last = block_of(FileOffset(offset.value + length.value - 1));
  return {first, BlockCount(last.value - first.value + 1)};
}

}  // namespace daxfs
