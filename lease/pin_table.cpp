#include "lease/pin_table.h"

#include <algorithm>

#include "base/require.h"

namespace daxfs {

void PinTable::add(const PinInfo& info, std::span<const PoolRange> blocks) {
  std::unique_ptr<Holder>& holder = holders_[info.holder.value];
  if (!holder) holder = std::make_unique<Holder>();
  const Source source{info.inode, info.requester.process, info.requester.uid,
                      info.requester.start_ticks};
  const auto shared = holder->sources.try_emplace(source, 0).first;
  ++shared->second;

  auto pin = std::make_unique<Pin>();
  pin->source_ = &*shared;
  pin->offset_ = info.offset;
  pin->length_ = info.length;
  pin->blocks_.assign(blocks.begin(), blocks.end());
  const auto age =
      std::chrono::duration_cast<std::chrono::microseconds>(info.since.time_since_epoch());
  pin->record_ = info.record;
  pin->since_us_ = static_cast<std::uint64_t>(age.count()) & ((std::uint64_t{1} << 61) - 1);
  pin->short_term_ = info.kind == PinKind::short_term;
  pin->write_ = info.write;
  pin->hidden_ = false;
  const std::size_t before = holder->pins.size();
  holder->pins.insert(holder->pins.end(), {info.id, std::move(pin)});
  DAXFS_REQUIRE(holder->pins.size() == before + 1, "pin {} of holder {} is there already",
                info.id.value, info.holder.value);
}

PinTable::Pin* PinTable::get(HolderId holder, PinId pin) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return nullptr;
  const auto it = owner->second->pins.find(pin);
  return it == owner->second->pins.end() ? nullptr : it->second.get();
}

const PinTable::Pin* PinTable::find(HolderId holder, PinId pin) const {
  const Pin* found = get(holder, pin);
  return found == nullptr || found->hidden_ ? nullptr : found;
}

PinTable::Pin& PinTable::known(HolderId holder, PinId pin) const {
  Pin* const found = get(holder, pin);
  DAXFS_REQUIRE(found != nullptr, "holder {} has no pin {}", holder.value, pin.value);
  return *found;
}

const PinTable::Pin& PinTable::find_hidden(HolderId holder, PinId pin) const {
  return known(holder, pin);
}

std::uint64_t PinTable::hide(HolderId holder, PinId pin) {
  Pin& found = known(holder, pin);
  found.hidden_ = true;
  return found.record_;
}

void PinTable::show(HolderId holder, PinId pin, std::uint64_t record) {
  Pin& found = known(holder, pin);
  found.record_ = record;
  found.hidden_ = false;
}

bool PinTable::move(HolderId from, PinId pin, HolderId to) {
  const Pin* found = find(from, pin);
  if (found == nullptr) return false;
  PinInfo moved = info(from, pin, *found);
  moved.holder = to;
  const absl::InlinedVector<PoolRange, 1> blocks(found->blocks().begin(), found->blocks().end());
  remove(from, pin);
  add(moved, blocks);
  return true;
}

bool PinTable::any_long(HolderId holder, InodeNumber inode,
                        absl::FunctionRef<bool(FileRange)> is) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return false;
  for (const auto& [id, pin] : owner->second->pins) {
    if (pin->short_term_ || pin->source_->first.inode != inode) continue;
    if (is(covering(pin->offset_, pin->length_))) return true;
  }
  return false;
}

void PinTable::remove(HolderId holder, PinId pin) {
  const auto found = holders_.find(holder.value);
  DAXFS_REQUIRE(found != holders_.end(), "pin {}: there is no holder {}", pin.value, holder.value);
  Holder& owner = *found->second;
  const auto it = owner.pins.find(pin);
  DAXFS_REQUIRE(it != owner.pins.end(), "holder {} has no pin {}", holder.value, pin.value);
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
    if (!pin->hidden_) result.push_back(id);
  }
  return result;
}

void PinTable::leave(HolderId holder, absl::FunctionRef<void(const Pin&)> visit) {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end() || owner->second->left) return;
  for (const auto& [id, pin] : owner->second->pins) visit(*pin);
  owner->second->left = true;
}

void PinTable::set_left(HolderId holder) {
  const auto owner = holders_.find(holder.value);
  if (owner != holders_.end()) owner->second->left = true;
}

bool PinTable::has_left(HolderId holder) const {
  const auto owner = holders_.find(holder.value);
  return owner != holders_.end() && owner->second->left;
}

void PinTable::forget(HolderId holder) {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return;
  DAXFS_REQUIRE(owner->second->pins.empty(), "holder {} goes with {} pins", holder.value,
                owner->second->pins.size());
  holders_.erase(owner);
}

std::vector<PinId> PinTable::pins_of(HolderId holder) const {
  std::vector<PinId> out;
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return out;
  for (const auto& [id, pin] : owner->second->pins) out.push_back(id);
  return out;
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
          .requester = {source.process, source.uid, source.start_ticks},
          .since = Time(std::chrono::duration_cast<Time::duration>(since)),
          .record = pin.record_,
          .lease = {}};
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
