// The part of check_volume() that looks at the pin records.
#pragma once

#include "blockmap/volume/check.h"
#include "blockmap/volume/volume.h"

namespace daxfs {

// Reports records that no crash can explain, and counts what pins of living processes keep (which
// the report has as metadata so far). Blocks that only such pins refer to are fine.
void check_pin_records(Volume& volume, CheckReport& report);

}  // namespace daxfs
