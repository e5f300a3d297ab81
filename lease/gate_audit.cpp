// Whether the gate's books agree with each other, piece by piece, while they are in use.
#include <algorithm>

#include "lease/gate_impl.h"

namespace daxfs {
namespace {

PoolRange common(PoolRange a, PoolRange b) {
  const PoolBlock start = std::max(a.start, b.start);
  const PoolBlock end = std::min(a.end(), b.end());
  return {start, end > start ? end - start : BlockCount(0)};
}

// Visits all of the range: what pins cover, and with no counts what they do not.
void for_each_piece(const PinCountMap& counts, PoolRange range,
                    absl::FunctionRef<void(PoolRange, PinCounts)> visit) {
  PoolBlock at = range.start;
  counts.for_each(range, [&](PoolRange piece, PinCounts pins) {
    if (piece.start > at) visit({at, piece.start - at}, {});
    visit(piece, pins);
    at = piece.end();
  });
  if (at < range.end()) visit({at, range.end() - at}, {});
}

}  // namespace

std::optional<PoolRange> Gate::find_limbo(std::span<const PoolRange> runs) const {
  const MutexLock lock(impl_->mutex);
  if (impl_->limbo.total().value == 0) return std::nullopt;
  for (const PoolRange& run : runs) {
    Limbo::Piece piece;
    if (!impl_->limbo.next(run.start, piece)) continue;
    if (const PoolRange part = common(piece.range, run); !part.empty()) return part;
  }
  return std::nullopt;
}

std::vector<PoolRange> Gate::limbo_within(
    PoolRange area, absl::FunctionRef<void(PoolRange, PinCounts)> visit) const {
  std::vector<PoolRange> found;
  const MutexLock lock(impl_->mutex);
  Limbo::Piece piece;
  for (PoolBlock at = area.start; impl_->limbo.next(at, piece); at = piece.range.end()) {
    const PoolRange part = common(piece.range, area);
    if (part.empty()) break;
    found.push_back(part);
    for_each_piece(impl_->counts, part, visit);
  }
  for (const std::vector<PoolRange>* ranges : impl_->leaving) {
    for (const PoolRange& range : *ranges) {
      if (const PoolRange part = common(range, area); !part.empty()) found.push_back(part);
    }
  }
  return found;
}

std::optional<PinId> Gate::audit_pins(
    PinId after, std::size_t limit,
    absl::FunctionRef<void(const PinInfo&, std::span<const PoolRange>, std::optional<PoolRange>)>
        visit) const {
  const MutexLock lock(impl_->mutex);
  const std::vector<PinInfo> some = impl_->pins.after(after, limit);
  for (const PinInfo& info : some) {
    // One that is about to go may have no record any more.
    const PinTable::Pin* pin = impl_->pins.find(info.holder, info.id);
    if (pin == nullptr) continue;
    std::optional<PoolRange> uncounted;
    for (const PoolRange& run : pin->blocks()) {
      for_each_piece(impl_->counts, run, [&](PoolRange piece, PinCounts pins) {
        const bool counted = pin->kind() == PinKind::long_term ? pins.long_term : pins.short_term;
        if (!counted && !uncounted) uncounted = piece;
      });
    }
    visit(info, pin->blocks(), uncounted);
  }
  if (some.empty()) return std::nullopt;
  return some.back().id;
}

}  // namespace daxfs
