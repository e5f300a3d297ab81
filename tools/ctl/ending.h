// How commands that go on and on come to their end.
#pragma once

#include <initializer_list>

#include "base/result.h"
#include "base/unique_fd.h"

namespace daxfs::ctl {

// SIGINT, SIGTERM, SIGHUP and `more` become readable (signalfd) in place of what they do, and
// writing to nobody becomes an error. Call it before the first thread begins. Not valid: errno says
// why.
UniqueFd catch_signals(std::initializer_list<int> more = {});

// Whether a call failed because the mount has ended.
bool is_end_of_mount(int code);

}  // namespace daxfs::ctl
