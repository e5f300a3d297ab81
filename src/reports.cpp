// What daxfsctl shows: one JSON object a line, produced in pages, so that a million pins cost
// bounded memory.
#include "src/reports.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/process_stat.h"
#include "base/process_table.h"
#include "blockmap/layout.h"
#include "blockmap/pin_lock.h"
#include "client/daxfs.h"
#include "src/degraded.h"
#include "src/pool_map.h"

namespace daxfs {
namespace {

using nlohmann::json;

double seconds(std::chrono::system_clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

double in_seconds(std::uint64_t ms) { return static_cast<double>(ms) / 1000; }

// A point of the steady clock, as people count time.
json wall_time(SteadyTime time) {
  if (time == SteadyTime::max()) return nullptr;
  const auto ahead = std::chrono::duration<double>(time - std::chrono::steady_clock::now());
  return seconds(std::chrono::system_clock::now()) + ahead.count();
}

// Appends the object as a line if it fits.
bool append_line(const json& object, std::size_t room, std::string& out) {
  // File names need not be UTF-8; a report has to be.
  const std::string line = object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  if (out.size() + line.size() > room) return false;
  out += line;
  return true;
}

// Names are up to their owner, and JSON may take six bytes for each of theirs.
void shorten_path(json& object) {
  constexpr std::size_t kMost = 1000;
  const auto path = object.find("path");
  if (path == object.end()) return;
  std::string& text = path->get_ref<std::string&>();
  if (text.size() > kMost) text = "..." + text.substr(text.size() - kMost);
}

// A process with a million pins is looked up once, not a million times.
class CommandNames {
 public:
  const std::string& of(const Requester& requester) {
    static const std::string kUnnamed = "(another pid namespace)";
    if (requester.process <= 0) return kUnnamed;
    look_at(requester);
    return name_;
  }
  // Whether it has ended. Its number may be another's by now. Nobody can tell of one in another pid
  // namespace.
  bool is_gone(const Requester& requester) {
    if (requester.process <= 0) return false;
    look_at(requester);
    return gone_;
  }

 private:
  void look_at(const Requester& requester) {
    if (requester.process == last_.process && requester.start_ticks == last_.start_ticks &&
        !name_.empty())
      return;
    last_ = {.process = requester.process, .start_ticks = requester.start_ticks};
    gone_ = daxfs::is_gone(last_);
    name_ = gone_ ? "" : command_of(last_.process);
  }

  ProcessMark last_;
  bool gone_ = false;
  std::string name_;
};

const Survivors::Survivor* find(const std::vector<Survivors::Survivor>& survivors,
                                HolderId holder) {
  const auto found = std::ranges::find(survivors, holder, &Survivors::Survivor::holder);
  return found == survivors.end() ? nullptr : &*found;
}

// What keeps a pin whose process does not: somebody else, who maps its blocks by libdaxfs or has
// its descriptor, such as a forked child. Null: its process does, or only the grace.
json kept_by(const PinInfo& pin, const Survivors::Survivor* survivor, bool is_gone,
             const PinLocked& locked) {
  const bool survivor_gone = survivor != nullptr && !survivor->lives && survivor->process != 0;
  const bool without_process = survivor != nullptr ? survivor_gone : is_gone || pin.left;
  if (!without_process) return nullptr;
  if (locked && locked(pin.id.value)) return "mapping";
  return survivor != nullptr || pin.left ? json(nullptr) : json("descriptor");
}

}  // namespace

// A list that is told a page at a time: each begins at the cursor where the last one ended.
class Reports::Pages {
 public:
  Pages(std::uint64_t& cursor, std::size_t room, std::string& out)
      : cursor_(cursor), room_(room), out_(out) {}

  std::uint64_t cursor() const { return cursor_; }
  Status only(const json& object) {
    if (!append_line(object, room_, out_)) return fail(EMSGSIZE);
    cursor_ = DAXFS_QUERY_END;
    return {};
  }
  // `next` gives at most so many items from the cursor on (less: there are no more),
  // `cursor_behind` where the one after an item begins, `show` its object, or null if it is left
  // out.
  template <class Item, class Next, class CursorBehind, class Show>
  Status list(const Next& next, const CursorBehind& cursor_behind, const Show& show) {
    constexpr std::size_t kBatch = 128;
    for (;;) {
      const Result<std::vector<Item>> items = next(kBatch);
      if (!items) return std::unexpected(items.error());
      for (const Item& item : *items) {
        json object = show(item);
        if (!object.is_null() && !append_line(object, room_, out_)) {
          if (!out_.empty()) return {};
          // Or nobody would see what comes behind it.
          shorten_path(object);
          if (!append_line(object, room_, out_)) return fail(EMSGSIZE);
        }
        cursor_ = cursor_behind(item);
      }
      if (items->size() < kBatch) break;
    }
    cursor_ = DAXFS_QUERY_END;
    return {};
  }

 private:
  std::uint64_t& cursor_;
  const std::size_t room_;
  std::string& out_;
};

MountState Reports::state() const {
  const SteadyTime now = std::chrono::steady_clock::now();
  const auto first = gate_.waiting_after(0, 1);
  return {.pool = mount_.pool != nullptr ? mount_.pool->path() : "",
          .mountpoint = mount_.mountpoint,
          .stopped = health_.why_stopped(),
          .unreadable = health_.unreadable(),
          .policy = gate_.options(),
          .total = bytes(mount_.volume.data_blocks()),
          .free = bytes(mount_.volume.allocator().free_blocks()),
          .limbo = bytes(gate_.totals().limbo),
          .longest_wait = std::chrono::duration_cast<std::chrono::seconds>(
              first.empty() ? SteadyTime::duration() : now - first.front().since),
          .needs_msync = mount_.pool != nullptr && mount_.pool->granularity() == Granularity::page,
          .request_limit = mount_.request_limit};
}

json Reports::status() const {
  const GateCounts counts = gate_.totals();
  const bool dax = mount_.pool != nullptr && mount_.pool->is_dax();
  const std::string stopped = health_.why_stopped();
  json degraded = json::array();
  for (const Degraded& one : what_is_degraded(state()))
    degraded.push_back({{"what", one.what}, {"text", one.text}, {"way_out", one.way_out}});
  return {
      {"pool", mount_.pool != nullptr ? mount_.pool->path() : ""},
      {"uuid", mount_.volume.uuid()},
      {"mountpoint", mount_.mountpoint},
      {"block_size", kBlockSize},
      {"total", bytes(mount_.volume.data_blocks()).value},
      {"free", bytes(mount_.volume.allocator().free_blocks()).value},
      {"limbo", bytes(counts.limbo).value},
      {"pins",
       {{"long", counts.long_pins},
        {"short", counts.short_pins},
        {"bytes", counts.pinned_bytes.value}}},
      {"leases", counts.leases},
      {"waiting", counts.waiting},
      {"attached", direct_.list().size()},
      {"policy", policy_json(gate_.options())},
      {"granularity", mount_.pool != nullptr ? to_string(mount_.pool->granularity()) : "byte"},
      {"dax", dax},
      {"read_only", health_.read_only()},
      {"cache", to_string(mount_.options.cache)},
      {"atime", to_string(mount_.options.atime)},
      {"acl", mount_.options.acl},
      {"direct", mount_.options.direct},
      {"unsafe_demo", mount_.options.unsafe_demo},
      // Seconds after which the kernel ends the mount if a request is not answered, or null.
      {"request_limit", mount_.request_limit ? json(mount_.request_limit->count()) : json(nullptr)},
      {"degraded", std::move(degraded)},
      // Why nothing is changed any more, or null.
      {"stopped", stopped.empty() ? json(nullptr) : json(stopped)}};
}

bool Reports::is_shown(const Requester& requester, const Caller& caller) const {
  return callers_.is_trusted(caller) || requester.uid == caller.uid;
}

Status Reports::list_pins(Pages& pages, const Caller& caller) {
  const auto survivors = files_.survivors();
  CommandNames commands;
  const PinLocked locked =
      mount_.pool != nullptr ? pin_locks_of(mount_.pool->descriptor()) : PinLocked();
  const auto doorbells = direct_.holders();
  const auto grace_left = [&](HolderId holder) -> json {
    const auto left = files_.grace_left(holder);
    return left ? json(in_seconds(static_cast<std::uint64_t>(left->count()))) : json(0.0);
  };
  return pages.list<PinInfo>(
      [&](std::size_t limit) { return gate_.pins_after(PinId{pages.cursor()}, limit); },
      [](const PinInfo& pin) { return pin.id.value; },
      [&](const PinInfo& pin) -> json {
        if (!is_shown(pin.requester, caller)) return nullptr;
        const Survivors::Survivor* const survivor = find(survivors, pin.holder);
        const bool copying = pin.left && copies_.is_copies(pin.holder);
        return {{"id", pin.id.value},
                {"inode", pin.inode.value},
                {"path", files_.has_no_file(pin.id) ? "" : inodes_.path_of(pin.inode)},
                {"offset", pin.offset.value},
                {"length", pin.length.value},
                {"kind", pin.kind == PinKind::short_term ? "short" : "long"},
                {"write", pin.write},
                {"pid", pin.requester.process},
                {"command", commands.of(pin.requester)},
                {"uid", pin.requester.uid},
                {"since", seconds(pin.since)},
                {"lease", pin.lease ? json(pin.lease->value) : json(nullptr)},
                {"survivor", survivor != nullptr},
                {"kept_by", kept_by(pin, survivor, commands.is_gone(pin.requester), locked)},
                {"grace", pin.left && !copying ? grace_left(pin.holder) : json(nullptr)},
                // Of direct access: "doorbell" keeps the page in which copies are counted; "copies"
                // are in flight.
                {"direct", copying                          ? json("copies")
                           : doorbells.contains(pin.holder) ? json("doorbell")
                                                            : json(nullptr)}};
      });
}

Status Reports::list_attached(Pages& pages, const Caller& caller) {
  CommandNames commands;
  return pages.list<DirectAccess::Attached>(
      [&](std::size_t limit) {
        auto all = direct_.list();
        std::erase_if(all, [&](const auto& one) { return one.pin.value <= pages.cursor(); });
        if (all.size() > limit) all.resize(limit);
        return all;
      },
      [](const DirectAccess::Attached& one) { return one.pin.value; },
      [&](const DirectAccess::Attached& one) -> json {
        if (!is_shown(one.requester, caller)) return nullptr;
        return {{"id", one.pin.value},
                {"inode", one.inode.value},
                {"path", inodes_.path_of(one.inode)},
                {"pid", one.requester.process},
                {"command", commands.of(one.requester)},
                {"uid", one.requester.uid},
                {"closed", one.closed},
                {"revoked", one.revocations}};
      });
}

Status Reports::list_leases(Pages& pages, const Caller& caller) {
  CommandNames commands;
  return pages.list<Gate::LeaseState>(
      [&](std::size_t limit) { return gate_.leases_after(LeaseId{pages.cursor()}, limit); },
      [](const Gate::LeaseState& state) { return state.lease.id.value; },
      [&](const Gate::LeaseState& state) -> json {
        const auto& [lease, breaking] = state;
        if (!is_shown(lease.requester, caller)) return nullptr;
        return {{"id", lease.id.value},
                {"inode", lease.inode.value},
                {"path", inodes_.path_of(lease.inode)},
                {"offset", lease.offset.value},
                {"length", lease.length.value},
                {"exclusive", lease.exclusive},
                {"breaking", breaking.has_value()},
                {"deadline", breaking ? wall_time(*breaking) : json(nullptr)},
                {"pid", lease.requester.process},
                {"command", commands.of(lease.requester)},
                {"uid", lease.requester.uid}};
      });
}

Status Reports::list_waiting(Pages& pages, const Caller& caller) {
  CommandNames commands;
  return pages.list<Gate::WaitingInfo>(
      [&](std::size_t limit) { return gate_.waiting_after(pages.cursor(), limit); },
      [](const Gate::WaitingInfo& one) { return one.arrival; },
      [&](const Gate::WaitingInfo& one) -> json {
        const GateEvent& about = one.about;
        const Requester requester{.process = about.process, .uid = one.uid};
        if (!is_shown(requester, caller)) return nullptr;
        return {{"id", one.arrival},
                {"request", to_string(one.wish)},
                {"inode", about.inode.value},
                {"path", inodes_.path_of(about.inode)},
                {"offset", about.offset},
                {"length", about.length},
                {"policy", to_string(about.policy)},
                {"pid", about.process},
                {"command", commands.of(requester)},
                {"uid", one.uid},
                {"since", wall_time(one.since)},
                {"deadline", wall_time(one.deadline)}};
      });
}

std::string Reports::pool_map(const Caller& caller) const {
  constexpr std::size_t kBatch = 256;
  const PoolRange area = data_area(mount_.volume.superblock());
  PoolMap map(area);
  const Allocator& allocator = mount_.volume.allocator();
  for (std::uint64_t cell = 0; cell < map.cells(); ++cell) {
    const PoolRange blocks = map.area_of(cell);
    map.set_free(cell, allocator.free_in(blocks));
    gate_.counts(blocks, [&](PoolRange piece, PinCounts) { map.add_pinned(piece); });
  }
  for (PoolBlock at = area.start;;) {
    const auto pieces = gate_.limbo_from(at, kBatch);
    for (const Gate::LimboInfo& piece : pieces) map.add_limbo(piece.range);
    if (pieces.size() < kBatch) break;
    at = pieces.back().range.end();
  }
  // In batches, so that nobody waits for long at the gate.
  std::optional<PinId> last = PinId{};
  while (last) {
    last =
        gate_.visit_pins(*last, kBatch, [&](const PinInfo& pin, std::span<const PoolRange> runs) {
          for (const PoolRange& run : runs) {
            if (pin.left) map.add_grace(run);
            if (is_shown(pin.requester, caller)) map.add_holder(run, pin.requester.process);
          }
        });
  }
  return map.text();
}

Status Reports::list_limbo(Pages& pages) {
  return pages.list<Gate::LimboInfo>(
      [&](std::size_t limit) { return gate_.limbo_from(PoolBlock(pages.cursor()), limit); },
      [](const Gate::LimboInfo& piece) { return piece.range.end().value; },
      [](const Gate::LimboInfo& piece) -> json {
        return {{"pool_offset", offset_of(piece.range.start).value},
                {"length", bytes(piece.range.count).value},
                {"pins", piece.pins.long_term + piece.pins.short_term},
                {"since", seconds(piece.since)}};
      });
}

Status Reports::list_extents(Pages& pages, OpenFile& file) {
  return pages.list<PinnedExtent>(
      [&](std::size_t limit) -> Result<std::vector<PinnedExtent>> {
        const FileOffset from(pages.cursor());
        auto found = extents_.of_range(file, from, ByteCount(INT64_MAX - from.value), limit);
        if (!found) return std::unexpected(found.error());
        return std::move(found->extents);
      },
      [](const PinnedExtent& extent) { return (extent.file + extent.length).value; },
      [](const PinnedExtent& extent) -> json {
        return {{"file_offset", extent.file.value}, {"pool_offset", extent.pool.value},
                {"length", extent.length.value},    {"unwritten", extent.unwritten},
                {"long", extent.pins.long_term},    {"short", extent.pins.short_term}};
      });
}

Status Reports::report(std::uint32_t what, std::uint64_t& cursor, std::size_t room,
                       std::string& out, OpenFile* file, const Caller& caller) {
  if (cursor == DAXFS_QUERY_END) return {};
  Pages pages(cursor, room, out);
  switch (what) {
    case DAXFS_QUERY_STATUS:
      return pages.only(status());
    case DAXFS_QUERY_PINS:
      return list_pins(pages, caller);
    case DAXFS_QUERY_LEASES:
      return list_leases(pages, caller);
    case DAXFS_QUERY_WAITING:
      return list_waiting(pages, caller);
    case DAXFS_QUERY_ATTACHED:
      return list_attached(pages, caller);
    case DAXFS_QUERY_LIMBO:
      return list_limbo(pages);
    case DAXFS_QUERY_EXTENTS:
      return file != nullptr ? list_extents(pages, *file) : fail(EISDIR);
    default:
      return fail(EINVAL);
  }
}

struct statvfs Reports::statistics() const {
  struct statvfs out {};
  Volume& volume = mount_.volume;
  const BlockCount free = volume.allocator().free_blocks();
  const std::uint64_t used_inodes = volume.inodes().used();
  // Every free block can become inodes, as in XFS.
  const std::uint64_t free_inodes = volume.inodes().capacity() - used_inodes +
                                    free.value / pmem::kChunkBlocks * pmem::kChunkInodes;
  out.f_bsize = out.f_frsize = kBlockSize;
  out.f_blocks = volume.data_blocks().value;
  out.f_bfree = out.f_bavail = free.value;
  out.f_files = used_inodes + free_inodes;
  out.f_ffree = out.f_favail = free_inodes;
  out.f_namemax = pmem::kMaxName;
  return out;
}

}  // namespace daxfs
