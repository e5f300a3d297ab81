#include <fmt/format.h>

#include "blockmap/fsck/passes.h"

namespace daxfs::fsck {
namespace {

std::uint32_t lanes_not_empty(const Medium& medium, const Journal::Geometry& geometry) {
  std::uint32_t count = 0;
  for (std::uint32_t lane = 0; lane < geometry.lanes; ++lane) {
    const ByteCount at(std::uint64_t{lane} * geometry.lane_bytes);
    if (medium.load<std::uint64_t>(geometry.start + at) != 0) ++count;
  }
  return count;
}

}  // namespace

void check_journal(Context& context) {
  const Journal::Geometry geometry = journal_geometry(context.super);
  for (const std::uint32_t lane : Journal::unplayable(context.medium, geometry)) {
    if (context.accept(Code::journal_lane, Severity::loss, fmt::format("journal lane {}", lane),
                       "holds a committed change that points outside the pool or into the journal; "
                       "dropped: an operation that was in flight may be done in part")) {
      Journal::discard(context.medium, geometry, lane);
    }
  }
  if (context.blocked()) return;
  const std::uint32_t waiting = lanes_not_empty(context.medium, geometry);
  if (waiting == 0) return;
  const auto committed = Journal::pending(context.medium, geometry);
  const std::uint32_t whole = committed ? *committed : 0;
  if (!context.accept(Code::journal_pending, Severity::harmless, "journal",
                      fmt::format("{} interrupted changes replayed, {} dropped that were never "
                                  "committed",
                                  whole, waiting - whole))) {
    return;
  }
  static_cast<void>(Journal::recover(context.medium, geometry));
  restore_superblocks(context);
}

}  // namespace daxfs::fsck
