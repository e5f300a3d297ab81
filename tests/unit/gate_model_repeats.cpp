// The specification of the gate: fences, and requests that are interrupted and repeated.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "tests/unit/gate_model.h"

namespace daxfs::test {

GateModel::Answer GateModel::interrupt(Request& r) {
  const pid_t process = r.requester.process;
  if (process != 0 && !ended.contains(process)) {
    if (!fences_are_left()) looked = now;
    interrupted.push_back({r, now + 10'000});
  }
  return refuse(r, EINTR);
}

bool GateModel::fences_are_left() const {
  return std::any_of(interrupted.begin(), interrupted.end(),
                     [](const Remembered& left) { return left.request.fence; });
}

void GateModel::leave_fence(Request& left, std::vector<int>& now_awake) {
  if (!std::exchange(left.fence, false)) return;
  for (Request& r : requests) {
    if (r.behind == left.place) wake(r, now_awake);
  }
}

void GateModel::repeat(Request& r) {
  if (std::exchange(r.judged, true)) return;
  for (auto it = interrupted.begin(); it != interrupted.end(); ++it) {
    const Request& before = it->request;
    if (it->until <= now || before.what != r.what || before.range != r.range ||
        before.holder != r.holder || before.requester.process != r.requester.process) {
      continue;
    }
    r.place = before.place;
    r.fence = before.fence;
    r.first_judged = before.first_judged;
    r.shorts_are_long = before.shorts_are_long;
    r.waits_under = before.waits_under;
    r.waits_since = before.waits_since;
    r.latest = before.latest;
    interrupted.erase(it);
    return;
  }
}

std::optional<GateModel::Answer> GateModel::pass_fences(Request& r) {
  repeat(r);
  const auto in_the_way = [&](const Request& other) {
    return other.fence && other.place < r.place && other.place > r.behind &&
           overlap(other.range, r.range);
  };
  // The newest fence that stands. One that an interrupted request has left does not, if its process
  // has ended or asks for this.
  for (;;) {
    r.behind = -1;
    for (const Request& other : requests) {
      if (in_the_way(other)) r.behind = other.place;
    }
    Request* left = nullptr;
    for (Remembered& before : interrupted) {
      if (!in_the_way(before.request)) continue;
      left = &before.request;
      r.behind = left->place;
    }
    if (left == nullptr) break;
    const pid_t process = left->requester.process;
    if (process != r.requester.process && !ended.contains(process)) break;
    std::vector<int> now_awake;
    leave_fence(*left, now_awake);
    note(std::move(now_awake));
  }
  if (r.behind < 0) return std::nullopt;
  if (r.nowait) return refuse(r, EAGAIN);
  if (r.cancelled) return interrupt(r);
  if (!r.has_waited) post(GateEvent::Kind::waiting, r);
  r.has_waited = true;
  r.parked = true;
  return Answer{.error = 0, .parked = true};
}

void GateModel::end_process(pid_t process) {
  if (ended.erase(process) == 0) ended.insert(process);
}

}  // namespace daxfs::test
