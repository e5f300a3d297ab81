// The specification of the gate: the events, and the news that holders of leases get.
#include <algorithm>
#include <utility>

#include "tests/unit/gate_model.h"

namespace daxfs::test {

PinPolicy GateModel::policy_for_request(const Request& r) const {
  if (r.what != What::detach) return options.pin_policy;
  return own_policy[r.range.inode].value_or(options.pin_policy);
}

void GateModel::post(GateEvent::Kind kind, const Request& r) {
  post(kind, r.range, r.requester.process);
  events.back().policy = policy_for_request(r);
}

void GateModel::post(GateEvent::Kind kind, const Range& range, pid_t process) {
  events.push_back({kind, range.inode, range.first * kBlockSize, shown_count(range) * kBlockSize,
                    process, std::nullopt});
}

// One unread piece of news for each lease: what is still to be answered outlives what is decided.
void GateModel::tell(const Request& r, const Lease& lease, Time deadline) {
  const std::uint64_t first = std::max(r.range.first, lease.range.first);
  const std::uint64_t end =
      std::min(r.range.first + r.range.count, lease.range.first + lease.range.count);
  News news{LeaseNews::Kind::asked, lease.number, lease.holder, first, end - first,
            r.requester.process,    deadline};
  for (const News& unread : asked) {
    if (unread.lease != lease.number) continue;
    const std::uint64_t last = std::max(end, unread.first + unread.count);
    news.first = std::min(first, unread.first);
    news.count = last - news.first;
    news.deadline = std::min(deadline, unread.deadline);
  }
  std::erase_if(asked, [&](const News& unread) { return unread.lease == lease.number; });
  asked.push_back(news);
  told.push_back(lease.holder);
  post(GateEvent::Kind::breaks, lease.range, lease.requester.process);
  events.back().policy = policy_for_request(r);
}

// What was taken away comes first, in the order in which that happened; then the leases by age.
std::optional<GateModel::News> GateModel::next_news(int holder) {
  const auto take = [&](std::vector<News>& from, auto wanted) -> std::optional<News> {
    const auto it = std::find_if(from.begin(), from.end(), wanted);
    if (it == from.end()) return std::nullopt;
    const News news = *it;
    from.erase(it);
    return news;
  };
  if (auto news = take(revoked, [&](const News& n) { return n.holder == holder; })) return news;
  for (const Lease& lease : leases) {
    if (lease.holder != holder) continue;
    if (auto news = take(asked, [&](const News& n) { return n.lease == lease.number; })) {
      return news;
    }
  }
  return std::nullopt;
}

bool GateModel::has_news(int holder) const {
  GateModel copy = *this;
  return copy.next_news(holder).has_value();
}

}  // namespace daxfs::test
