// Doorbells that a former daemon has given out: their clients go on copying by themselves until
// somebody closes them (docs/direct-access.md).
#pragma once

#include <vector>

#include "blockmap/volume/rebuild.h"
#include "blockmap/volume/volume.h"

namespace daxfs {

namespace doorbell {
struct Page;
}

// The doorbell that lies in this block of the pool. What clients have stored there is not trusted.
// Its words are no part of the format: nothing of them outlives the processes.
doorbell::Page& doorbell_at(const Medium& medium, PoolBlock block);
// Between (3) and (4) of client/doorbell.h: a client that has not counted yet finds it closed.
void let_counts_arrive();
// Whether copies of anybody are counted in the doorbell.
bool is_quiet(const doorbell::Page& page);

// Closes those of the survivors for good, and waits a moment for the copies that are in flight.
// What is in flight after that becomes a survivor, too: a recorded pin of its process over all that
// the file has now (also in `pins`). To be called before anything is freed, after the scan: a block
// that an inode owns is no doorbell, whatever a record says.
void close_former_doorbells(Volume& volume, std::vector<SurvivingPin>& survivors,
                            PinnedSpace& pins);
// The same for a check that repairs: the processes whose copies go on. Does not record them.
std::vector<pid_t> still_copying(const Medium& medium, const std::vector<RecordedPin>& doorbells);

}  // namespace daxfs
