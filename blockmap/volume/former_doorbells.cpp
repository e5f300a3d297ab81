#include "blockmap/volume/former_doorbells.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "base/block_ranges.h"
#include "base/clock.h"
#include "blockmap/extent_map.h"
#include "blockmap/medium/private_medium.h"
#include "client/doorbell.h"

namespace daxfs {
namespace {

using doorbell::Page;

// Copies take microseconds. What takes longer is stopped, or has died in the middle.
constexpr std::chrono::milliseconds kPatience{100};

// Whether this attachment has copies in flight.
bool copies_in(const Page& page, std::uint64_t attachment) {
  return std::ranges::any_of(page.slots, [&](const doorbell::Slot& slot) {
    // (4) of client/doorbell.h.
    return slot.count.load(std::memory_order_seq_cst) != 0 &&
           slot.owner.load(std::memory_order_acquire) == attachment;
  });
}

bool copies_in(const Medium& medium, const RecordedPin& bell) {
  return copies_in(doorbell_at(medium, bell.blocks.front().start), bell.pin.offset.value);
}

// Closes them all, and takes out those in which nobody copies any more.
template <class Bells>
void close_and_wait(const Medium& medium, Bells& bells) {
  for (const auto& bell : bells) {
    doorbell_at(medium, bell.blocks.front().start)
        .epoch.store(doorbell::kClosedForGood, std::memory_order_seq_cst);  // (3)
  }
  let_counts_arrive();
  const auto until = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    std::erase_if(bells, [&](const auto& bell) { return !copies_in(medium, bell); });
    if (bells.empty() || std::chrono::steady_clock::now() >= until) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// All that the file has. Nothing if there is no such file any more.
std::vector<PoolRange> blocks_of_file(Volume& volume, const PinRecord& pin) {
  if (!volume.inodes().valid(pin.inode)) return {};
  const auto record = volume.inodes().load(pin.inode);
  if (!record || record->mode == 0 || record->generation != pin.generation) return {};
  const auto map = ExtentMap::load(volume.medium(), volume.allocator(), pin.inode,
                                   volume.inodes().slot(pin.inode), volume.data_area());
  if (!map) return {};
  return map->physical(
      {FileBlock(0), BlockCount(std::numeric_limits<std::int64_t>::max() / kBlockSize)});
}

}  // namespace

Page& doorbell_at(const Medium& medium, PoolBlock block) {
  // Clients write there, and so the daemon does: it is memory that they share, no storage.
  return *reinterpret_cast<Page*>(const_cast<std::byte*>(medium.at(block)));
}

void let_counts_arrive() {
  // Where the kernel makes none, clients have been promised none; but by a former daemon, perhaps.
  // What a CPU keeps to itself it stores within microseconds.
  if (!doorbell::make_barriers()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool is_quiet(const Page& page) {
  return std::ranges::all_of(page.slots, [](const doorbell::Slot& slot) {
    return slot.count.load(std::memory_order_seq_cst) == 0;
  });
}

std::vector<pid_t> still_copying(const Medium& medium, const std::vector<RecordedPin>& doorbells) {
  std::vector<RecordedPin> bells = doorbells;
  close_and_wait(medium, bells);
  std::vector<pid_t> processes;
  processes.reserve(bells.size());
  for (const RecordedPin& bell : bells) processes.push_back(bell.pin.owner.process);
  return processes;
}

void close_former_doorbells(Volume& volume, std::vector<SurvivingPin>& survivors,
                            PinnedSpace& pins) {
  // fsck.daxfs -n: clients do not see a copy of their doorbells, and nothing is freed under them.
  if (dynamic_cast<const PrivateMedium*>(&volume.medium()) != nullptr) return;
  std::vector<RecordedPin> bells;
  std::uint64_t last_pin = 0;
  const auto unowned = to_set(pins.unowned);
  for (const SurvivingPin& survivor : survivors) {
    last_pin = std::max(last_pin, survivor.pin.pin_id);
    if (!survivor.pin.doorbell) continue;
    std::vector<PoolRange> inside;
    std::vector<PoolRange> outside;
    split(survivor.blocks.front(), unowned, inside, outside);
    if (!inside.empty()) bells.push_back(survivor);
  }
  if (bells.empty()) return;
  close_and_wait(volume.medium(), bells);
  for (const RecordedPin& bell : bells) {
    SurvivingPin copies;
    copies.blocks = blocks_of_file(volume, bell.pin);
    if (copies.blocks.empty()) continue;
    copies.pin = bell.pin;
    copies.pin.doorbell = false;
    copies.pin.offset = FileOffset(0);
    copies.pin.length = ByteCount(std::numeric_limits<std::int64_t>::max());
    copies.pin.since_ns = file_time_now();
    copies.pin.pin_id = ++last_pin;
    copies.copies_of = bell.blocks.front().start;
    // Without room for a record they are kept by this mount alone.
    if (const auto slot = volume.pin_records().add(copies.pin, copies.blocks)) copies.slot = *slot;
    pins.kept.insert(pins.kept.end(), copies.blocks.begin(), copies.blocks.end());
    survivors.push_back(std::move(copies));
  }
  pins.kept = to_set(std::move(pins.kept));
}

}  // namespace daxfs
