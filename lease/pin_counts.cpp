#include "lease/pin_counts.h"

#include <algorithm>
#include <random>

namespace daxfs {
namespace {

PoolBlock min_border(const CountedRanges::Cursor& cursor, PoolBlock at, PoolBlock end) {
  if (cursor.done()) return end;
  return std::min(end, cursor.start() > at ? cursor.start() : cursor.end());
}

}  // namespace

PinCountMap::PinCountMap() {
  std::random_device random;
  secret_ = (std::uint64_t{random()} << 32) | random();
}

// splitmix64 over a secret: what nobody can predict, nobody can make collide.
std::uint64_t PinCountMap::tag_of(pid_t process) const {
  std::uint64_t z = secret_ + static_cast<std::uint64_t>(process) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void PinCountMap::add(PoolRange range, PinKind kind, pid_t process) {
  of(kind).add(range, tag_of(process));
}

void PinCountMap::remove(PoolRange range, PinKind kind, pid_t process,
                         std::vector<PoolRange>& unpinned) {
  const CountedRanges& other = kind == PinKind::long_term ? short_ : long_;
  if (other.segments() == 0) return of(kind).remove(range, tag_of(process), unpinned);

  // What pins of the other kind still cover is not unpinned.
  cleared_.clear();
  of(kind).remove(range, tag_of(process), cleared_);
  for (const PoolRange& piece : cleared_) {
    PoolBlock at = piece.start;
    for (auto cursor = other.from(at); !cursor.done() && cursor.start() < piece.end();
         cursor.next()) {
      if (cursor.start() > at) unpinned.push_back({at, cursor.start() - at});
      at = cursor.end();
    }
    if (at < piece.end()) unpinned.push_back({at, piece.end() - at});
  }
}

void PinCountMap::walk(PoolRange range,
                       absl::FunctionRef<bool(PoolRange, const Cover&)> visit) const {
  PoolBlock at = range.start;
  const PoolBlock end = range.end();
  auto longs = long_.from(at);
  auto shorts = short_.from(at);
  while (at < end && !(longs.done() && shorts.done())) {
    const PoolBlock border = min_border(longs, at, min_border(shorts, at, end));
    Cover cover;
    if (!longs.done() && longs.start() <= at) cover.long_term = longs.count();
    if (!shorts.done() && shorts.start() <= at) cover.short_term = shorts.count();
    if (cover.has(Awaited::any) && !visit({at, border - at}, cover)) return;
    at = border;
    if (!longs.done() && longs.end() <= at) longs.next();
    if (!shorts.done() && shorts.end() <= at) shorts.next();
  }
}

void PinCountMap::for_each(PoolRange range,
                           absl::FunctionRef<void(PoolRange, PinCounts)> visit) const {
  PoolRange pending;
  PinCounts counts;
  walk(range, [&](PoolRange piece, const Cover& cover) {
    if (!pending.empty() && pending.end() == piece.start && counts == cover.counts()) {
      pending.count += piece.count;
      return true;
    }
    if (!pending.empty()) visit(pending, counts);
    pending = piece;
    counts = cover.counts();
    return true;
  });
  if (!pending.empty()) visit(pending, counts);
}

bool PinCountMap::any(PoolRange range) const {
  bool found = false;
  walk(range, [&](PoolRange, const Cover&) {
    found = true;
    return false;
  });
  return found;
}

PinCountMap::Cover PinCountMap::at(PoolBlock block) const {
  Cover result;
  walk({block, BlockCount(1)}, [&](PoolRange, const Cover& cover) {
    result = cover;
    return false;
  });
  return result;
}

bool PinCountMap::foreign(const Cover& cover, Awaited awaited, pid_t process) const {
  if (process == 0) return cover.has(awaited);
  const std::uint64_t tag = tag_of(process);
  return !cover.short_term.all_by(tag) || (awaited == Awaited::any && !cover.long_term.all_by(tag));
}

}  // namespace daxfs
