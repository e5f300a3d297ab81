#include "blockmap/volume/check_pin_records.h"

#include <fmt/format.h>

#include "blockmap/pin_record_scan.h"

namespace daxfs {

void check_pin_records(Volume& volume, CheckReport& report) {
  report.pins = volume.survivors().size();
  for (const PoolRange& range : volume.survivors_limbo()) report.kept_blocks += range.count.value;
  report.metadata_blocks -= report.kept_blocks;

  PinRecordScan scan(volume.medium(), volume.superblock());
  if (const auto read = scan.read_headers(); !read) {
    report.errors.push_back(read.error().text);
    return;
  }
  scan.for_each([](RecordedPin&&, std::span<const PinSlot>) {});
  for (const std::string& what : scan.senseless()) report.errors.push_back(what);
  // A crash may tear records, a good unmount leaves none that are.
  if (volume.report().was_clean && scan.torn() != 0) {
    report.errors.push_back(
        fmt::format("pin records: {} are damaged (checksum does not match); mounting the pool "
                    "drops them",
                    scan.torn()));
  }
}

}  // namespace daxfs
