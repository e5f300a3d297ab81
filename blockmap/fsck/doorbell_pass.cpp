// Clients of direct access that live on after their daemon copy into files by themselves. Before
// anything is repaired their doorbells are closed, and nobody is in the middle of a copy.
#include <fmt/format.h>

#include "blockmap/fsck/passes.h"
#include "blockmap/pin_record_scan.h"
#include "blockmap/volume/former_doorbells.h"
#include "client/doorbell.h"

namespace daxfs::fsck {

void check_doorbells(Context& context) {
  if (context.options.private_copy) return;  // clients would not see it, and nothing is repaired
  PinRecordScan scan(context.medium, context.super);
  if (!scan.read_headers()) return;  // told elsewhere
  std::vector<RecordedPin> bells;
  scan.for_each([&](RecordedPin&& found, std::span<const PinSlot>) {
    if (!found.pin.doorbell) return;
    const doorbell::Page& page = doorbell_at(context.medium, found.blocks.front().start);
    // Else the record is wrong, and the block may be a file's.
    if (page.magic.load(std::memory_order_relaxed) != doorbell::kMagic) return;
    const auto& locked = context.options.locked;
    if (is_alive(found.pin.owner) || (locked && locked(found.pin.pin_id)))
      bells.push_back(std::move(found));
  });
  for (const pid_t process : still_copying(context.medium, bells)) {
    context.accept(
        Code::pin_record, Severity::fatal, fmt::format("process {}", process),
        "is in the middle of a copy into or out of the pool, and stopped; end it, or let "
        "it go on, and check again");
  }
}

}  // namespace daxfs::fsck
