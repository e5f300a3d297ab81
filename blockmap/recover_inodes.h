// What the last mount left unfinished: orphans are freed, interrupted detaches finished.
#pragma once

#include <string>

#include "blockmap/rebuild.h"
#include "blockmap/result.h"
#include "blockmap/volume.h"

namespace daxfs {

// To be done before the pool is used. Nobody can hold on to these blocks any more, so they become
// free.
Outcome<void> recover_inodes(Volume& volume, const UnfinishedInodes& unfinished);

}  // namespace daxfs
