// What the last mount left unfinished: orphans are freed, interrupted detaches finished.
#pragma once

#include <string>

#include "base/result.h"
#include "blockmap/volume/rebuild.h"
#include "blockmap/volume/volume.h"

namespace daxfs {

// To be done before the pool is used. The blocks become free, but for those that survivors of an
// earlier mount have pinned: these become unowned.
Outcome<void> recover_inodes(Volume& volume, const UnfinishedInodes& unfinished, PinnedSpace& pins);

}  // namespace daxfs
