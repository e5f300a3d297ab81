#include "tests/crash/crash_points.h"

namespace daxfs::testing {

void play(const Trace& trace, ReversibleMedium& image, const AtMoment& visit) {
  PendingLines pending;
  Moment moment;
  bool news = true;  // since the last stop
  for (std::uint32_t i = 0; i < trace.size(); ++i) {
    const Event& event = trace[i];
    switch (event.kind) {
      case Event::Kind::fence:
        if (news) visit(moment, pending);
        pending.fence(event.thread, image);
        news = true;
        break;
      case Event::Kind::begin:
        moment.in_flight = true;
        break;
      case Event::Kind::end:
        moment.finished = event.operation + 1;
        moment.in_flight = false;
        news = true;
        break;
      default:
        pending.add(event, i);
        news = true;
        break;
    }
    moment.at = i + 1;
    if (event.kind == Event::Kind::end || i + 1 == trace.size()) {
      visit(moment, pending);
      news = false;
    }
  }
}

}  // namespace daxfs::testing
