#include "lease/pin_table.h"

#include <algorithm>
#include <cassert>

namespace daxfs {

PinId PinTable::add(const PinRequest& request, Time since) {
  std::unique_ptr<Holder>& holder = holders_[request.holder.value];
  if (!holder) holder = std::make_unique<Holder>();
  const Source source{request.inode, request.requester.process, request.requester.uid};
  const auto shared = holder->sources.try_emplace(source, 0).first;
  ++shared->second;

  auto pin = std::make_unique<Pin>();
  pin->source_ = &*shared;
  pin->offset_ = request.offset;
  pin->length_ = request.length;
  pin->blocks_.assign(request.blocks.begin(), request.blocks.end());
  const auto age = std::chrono::duration_cast<std::chrono::microseconds>(since.time_since_epoch());
  pin->since_us_ = static_cast<std::uint64_t>(age.count()) & ((std::uint64_t{1} << 62) - 1);
  pin->short_term_ = request.kind == PinKind::short_term;
  pin->write_ = request.write;
  const PinId id{++last_id_};
  holder->pins.insert(holder->pins.end(), {id, std::move(pin)});
  return id;
}

const PinTable::Pin* PinTable::find(HolderId holder, PinId pin) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return nullptr;
  const auto it = owner->second->pins.find(pin);
  return it == owner->second->pins.end() ? nullptr : it->second.get();
}

void PinTable::remove(HolderId holder, PinId pin) {
  Holder& owner = *holders_.find(holder.value)->second;
  const auto it = owner.pins.find(pin);
  assert(it != owner.pins.end());
  Sources::value_type& source = *it->second->source_;
  // The last source stays for the next pin; a descriptor that wanders from process to process
  // must not collect them.
  if (--source.second == 0 && owner.sources.size() > 1) owner.sources.erase(source.first);
  owner.pins.erase(it);
}

std::vector<PinId> PinTable::some_of(HolderId holder, std::size_t limit) const {
  std::vector<PinId> result;
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return result;
  result.reserve(std::min(limit, owner->second->pins.size()));
  for (const auto& [id, pin] : owner->second->pins) {
    if (result.size() == limit) break;
    result.push_back(id);
  }
  return result;
}

PinInfo PinTable::info(HolderId holder, PinId id, const Pin& pin) {
  const Source& source = pin.source_->first;
  const std::chrono::microseconds since(static_cast<std::int64_t>(pin.since_us_));
  return {.id = id,
          .holder = holder,
          .inode = source.inode,
          .offset = pin.offset_,
          .length = pin.length_,
          .kind = pin.kind(),
          .write = pin.write_,
          .requester = {source.process, source.uid},
          .since = Time(std::chrono::duration_cast<Time::duration>(since))};
}

std::vector<PinInfo> PinTable::after(PinId after, std::size_t limit) const {
  // A heap of the `limit` lowest ids so far, the highest of them on top.
  struct Entry {
    PinId id;
    HolderId holder;
    const Pin* pin;
    bool operator<(const Entry& other) const { return id < other.id; }
  };
  std::vector<Entry> lowest;
  for (const auto& [holder, owner] : holders_) {
    if (limit == 0) break;
    for (auto it = owner->pins.upper_bound(after); it != owner->pins.end(); ++it) {
      if (lowest.size() == limit) {
        if (it->first >= lowest.front().id) break;
        std::pop_heap(lowest.begin(), lowest.end());
        lowest.pop_back();
      }
      lowest.push_back({it->first, HolderId{holder}, it->second.get()});
      std::push_heap(lowest.begin(), lowest.end());
    }
  }
  std::sort_heap(lowest.begin(), lowest.end());
  std::vector<PinInfo> result;
  result.reserve(lowest.size());
  for (const Entry& entry : lowest) result.push_back(info(entry.holder, entry.id, *entry.pin));
  return result;
}

}  // namespace daxfs
