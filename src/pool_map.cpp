#include "src/pool_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace daxfs {
namespace {

unsigned shift_for(BlockCount blocks) {
  const std::uint64_t least = (blocks.value + PoolMap::kMostCells - 1) / PoolMap::kMostCells;
  return static_cast<unsigned>(std::countr_zero(std::bit_ceil(std::max<std::uint64_t>(least, 1))));
}

}  // namespace

PoolMap::PoolMap(PoolRange area)
    : area_(area),
      shift_(shift_for(area.count)),
      cells_((area.count.value + (1ull << shift_) - 1) >> shift_) {}

PoolRange PoolMap::area_of(std::uint64_t cell) const {
  const PoolBlock start = area_.start + BlockCount(cell << shift_);
  return {start, std::min(BlockCount(1ull << shift_), area_.end() - start)};
}

void PoolMap::set_free(std::uint64_t cell, BlockCount free) {
  cells_[cell].used = (area_of(cell).count - free).value;
}

template <class Visit>
void PoolMap::split(PoolRange range, const Visit& visit) {
  PoolBlock at = std::max(range.start, area_.start);
  const PoolBlock end = std::min(range.end(), area_.end());
  while (at < end) {
    const std::uint64_t cell = (at - area_.start).value >> shift_;
    const PoolBlock border = std::min(end, area_of(cell).end());
    visit(cell, (border - at).value);
    at = border;
  }
}

void PoolMap::add_pinned(PoolRange range) {
  split(range, [&](std::uint64_t cell, std::uint64_t blocks) { cells_[cell].pinned += blocks; });
}

void PoolMap::add_limbo(PoolRange range) {
  split(range, [&](std::uint64_t cell, std::uint64_t blocks) { cells_[cell].limbo += blocks; });
}

void PoolMap::add_grace(PoolRange range) {
  split(range, [&](std::uint64_t cell, std::uint64_t blocks) { cells_[cell].grace += blocks; });
}

void PoolMap::add_holder(PoolRange range, pid_t process) {
  split(range, [&](std::uint64_t cell, std::uint64_t blocks) { held_[{cell, process}] += blocks; });
}

std::string PoolMap::text() const {
  struct Most {
    std::uint64_t blocks = 0;
    pid_t process = 0;
  };
  std::vector<Most> most(cells_.size());
  for (const auto& [where, blocks] : held_) {
    Most& one = most[where.first];
    // Of two that have as much the lower number, so that a picture does not flicker.
    if (blocks > one.blocks || (blocks == one.blocks && where.second < one.process)) {
      one = {blocks, where.second};
    }
  }
  std::string text =
      fmt::format("{{\"cell_blocks\":{},\"first_block\":{},\"blocks\":{},\"cells\":[",
                  1ull << shift_, area_.start.value, area_.count.value);
  bool first = true;
  for (std::size_t i = 0; i < cells_.size(); ++i) {
    Cell cell = cells_[i];
    if (cell.used == 0 && cell.pinned == 0 && cell.limbo == 0) continue;
    // What is in limbo is pinned, and was never said to be free. The parts were not looked at in
    // one moment.
    cell.used -= std::min(cell.used, cell.limbo);
    cell.grace = std::min(cell.grace, cell.used);
    cell.pinned -= std::min(cell.pinned, cell.limbo + cell.grace);
    text += fmt::format("{}[{},{},{},{},{},{}]", first ? "" : ",\n", i, cell.used, cell.pinned,
                        cell.limbo, cell.grace, most[i].process);
    first = false;
  }
  return text + "]}\n";
}

}  // namespace daxfs
