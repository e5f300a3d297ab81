// Plays a trace on an image and stops wherever a crash could leave something new.
#pragma once

#include <cstdint>
#include <functional>

#include "tests/crash/pending_lines.h"
#include "tests/crash/trace.h"

namespace daxfs::testing {

// A moment of a trace: `at` events have happened.
struct Moment {
  std::uint32_t at = 0;
  std::uint32_t finished = 0;  // operations that have returned
  bool in_flight = false;      // operation number `finished` has begun
};

// The image has everything that is durable, `pending` what else may have arrived.
using AtMoment = std::function<void(const Moment&, const PendingLines& pending)>;

// Plays the whole trace; the image is what the medium held before it. What may be found between two
// fences may also be found just before the second, where most is pending: so the moments are those
// just before a fence, just after an operation has returned (from then on, all of it must be
// there), and the end. `visit` has to leave the image as it was.
void play(const Trace& trace, ReversibleMedium& image, const AtMoment& visit);

}  // namespace daxfs::testing
