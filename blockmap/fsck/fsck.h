// Checks a pool that is not mounted, and repairs it.
#pragma once

#include <string>

#include "base/result.h"
#include "blockmap/fsck/finding.h"
#include "blockmap/medium/medium.h"

namespace daxfs::fsck {

// Finds every structural damage and repairs it as far as `options` allow. Each repair is a journal
// transaction (or, in the superblock, one of two copies), good on its own: killed at any moment,
// a further run goes on from there. A pool without findings is not written to. In the end the pool
// was checked by blockmap/volume/check.h, too, which shares with the repair no more than how a
// single record must look; what that finds is `fatal`.
//
// A Problem if this is no pool at all, or one that nothing can be said about (truncated, made by a
// newer version, both superblocks lost).
Outcome<Report> check_and_repair(Medium& medium, const std::string& name, const Options& options);

}  // namespace daxfs::fsck
