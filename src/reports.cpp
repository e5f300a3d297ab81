// What daxfsctl shows: one JSON object a line, produced in pages, so that a million pins cost
// bounded memory.
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <shared_mutex>

#include "client/daxfs.h"
#include "src/filesystem.h"

namespace daxfs {
namespace {

using nlohmann::json;

double seconds(std::chrono::system_clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

// Appends the object as a line if it fits.
bool append(const json& object, std::size_t room, std::string& out) {
  // File names need not be UTF-8; a report has to be.
  const std::string line = object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  if (out.size() + line.size() > room) return false;
  out += line;
  return true;
}

}  // namespace

std::string Filesystem::path_of(InodeNumber inode) {
  if (inode == kRootInode) return "/";
  std::string path;
  for (int depth = 0; inode != kRootInode; ++depth) {
    const auto hint = cache_.name_hint(inode);
    if (hint.name.empty() || depth > 1000) return "";
    path.insert(0, "/" + hint.name);
    inode = hint.parent;
  }
  return path;
}

json Filesystem::status_report() const {
  const MountOptions& mount = options_;
  const GateOptions gate = gate_.options();
  const GateCounts counts = gate_.totals();
  const bool dax = pool_ != nullptr && pool_->is_dax();
  return {{"pool", pool_ != nullptr ? pool_->path() : ""},
          {"uuid", volume_.uuid()},
          {"mountpoint", mountpoint_},
          {"block_size", kBlockSize},
          {"total", bytes(volume_.data_blocks()).value},
          {"free", bytes(volume_.allocator().free_blocks()).value},
          {"limbo", bytes(counts.limbo).value},
          {"pins",
           {{"long", counts.long_pins},
            {"short", counts.short_pins},
            {"bytes", counts.pinned_bytes.value}}},
          {"leases", 0},
          {"waiting", counts.waiting},
          {"policy",
           {{"pin_policy", to_string(gate.pin_policy)},
            {"on_timeout", to_string(gate.on_timeout)},
            {"wait_timeout", nullptr},
            {"break_timeout", 45.0},
            {"short_timeout", static_cast<double>(gate.short_timeout_ms) / 1000},
            {"longterm", to_string(gate.longterm)},
            {"pin_limit", nullptr},
            {"limbo_limit", gate.limbo_limit.value}}},
          {"granularity", pool_ != nullptr ? to_string(pool_->granularity()) : "byte"},
          {"dax", dax},
          {"read_only", mount.read_only}};
}

bool Filesystem::sees_everything(const Caller& caller) const {
  return caller.uid == 0 || caller.uid == mounter_;
}

Status Filesystem::report(std::uint32_t what, std::uint64_t& cursor, std::size_t room,
                          std::string& out, OpenFile* file, const Caller& caller) {
  constexpr std::size_t kBatch = 128;
  if (cursor == DAXFS_QUERY_END) return {};
  switch (what) {
    case DAXFS_QUERY_STATUS:
      if (!append(status_report(), room, out)) return fail(EMSGSIZE);
      cursor = DAXFS_QUERY_END;
      return {};
    case DAXFS_QUERY_PINS:
      for (;;) {
        const auto pins = gate_.pins_after(PinId{cursor}, kBatch);
        for (const PinInfo& pin : pins) {
          if (sees_everything(caller) || pin.requester.uid == caller.uid) {
            const json line = {{"id", pin.id.value},
                               {"inode", pin.inode.value},
                               {"path", path_of(pin.inode)},
                               {"offset", pin.offset.value},
                               {"length", pin.length.value},
                               {"kind", pin.kind == PinKind::short_term ? "short" : "long"},
                               {"write", pin.write},
                               {"pid", pin.requester.process},
                               {"command", command_of(pin.requester.process)},
                               {"uid", pin.requester.uid},
                               {"since", seconds(pin.since)},
                               {"lease", nullptr}};
            if (!append(line, room, out)) return out.empty() ? fail(EMSGSIZE) : Status();
          }
          cursor = pin.id.value;
        }
        if (pins.size() < kBatch) break;
      }
      cursor = DAXFS_QUERY_END;
      return {};
    case DAXFS_QUERY_LIMBO:
      for (;;) {
        const auto pieces = gate_.limbo_from(PoolBlock(cursor), kBatch);
        for (const Gate::LimboInfo& piece : pieces) {
          const json line = {{"pool_offset", offset_of(piece.range.start).value},
                             {"length", bytes(piece.range.count).value},
                             {"pins", piece.pins.long_term + piece.pins.short_term},
                             {"since", seconds(piece.since)}};
          if (!append(line, room, out)) return {};
          cursor = piece.range.end().value;
        }
        if (pieces.size() < kBatch) break;
      }
      cursor = DAXFS_QUERY_END;
      return {};
    case DAXFS_QUERY_EXTENTS:
      if (file == nullptr) return fail(EISDIR);
      for (;;) {
        const FileOffset from(cursor);
        const auto found = extents(*file, from, ByteCount(INT64_MAX - from.value), kBatch);
        if (!found) return std::unexpected(found.error());
        for (const PinnedExtent& extent : found->extents) {
          const json line = {{"file_offset", extent.file.value}, {"pool_offset", extent.pool.value},
                             {"length", extent.length.value},    {"unwritten", extent.unwritten},
                             {"long", extent.pins.long_term},    {"short", extent.pins.short_term}};
          if (!append(line, room, out)) return {};
          cursor = (extent.file + extent.length).value;
        }
        if (!found->more) break;
      }
      cursor = DAXFS_QUERY_END;
      return {};
    default:
      return fail(EINVAL);
  }
}

}  // namespace daxfs
