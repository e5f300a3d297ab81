#include "lease/lease_table.h"

#include <algorithm>
#include <cerrno>

#include "base/require.h"

namespace daxfs {
namespace {

// How much a holder that never reads its news can make us keep of them.
constexpr std::size_t kMostRevoked = LeaseTable::kMostLeases;

FileRange intersection(FileRange a, FileRange b) {
  const FileBlock start = std::max(a.start, b.start);
  // Counted from `start`: a truncate's range reaches to the end of all numbers.
  const BlockCount left_of_a = a.count - (start - a.start);
  const BlockCount left_of_b = b.count - (start - b.start);
  return {start, std::min(left_of_a, left_of_b)};
}

FileRange hull(FileRange a, FileRange b) {
  const FileBlock start = std::min(a.start, b.start);
  return {start, std::max(a.end(), b.end()) - start};
}

}  // namespace

Result<LeaseId> LeaseTable::add(const LeaseRequest& request) {
  const LeaseInfo lease{.id = LeaseId{last_id_ + 1},
                        .holder = request.holder,
                        .inode = request.inode,
                        .offset = request.offset,
                        .length = request.length,
                        .exclusive = request.exclusive,
                        .requester = request.requester};
  for (auto it = by_inode_.lower_bound({request.inode, LeaseId{}});
       it != by_inode_.end() && it->first.first == request.inode; ++it) {
    if (it->second == request.holder) continue;
    const LeaseInfo& other = *find(it->second, it->first.second);
    if ((other.exclusive || lease.exclusive) && overlap(other.range(), lease.range())) {
      return fail(EAGAIN);
    }
  }
  Holder& holder = holders_[request.holder.value];
  if (holder.leases.size() == kMostLeases) return fail(ENOLCK);
  ++last_id_;
  holder.leases.insert({lease.id, lease});
  by_inode_.insert({{lease.inode, lease.id}, lease.holder});
  by_id_.insert({lease.id, lease.holder});
  ++by_user_[lease.requester.uid];
  return lease.id;
}

const LeaseInfo* LeaseTable::find(HolderId holder, LeaseId lease) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return nullptr;
  const auto it = owner->second.leases.find(lease);
  return it == owner->second.leases.end() ? nullptr : &it->second;
}

LeaseTable::Holder& LeaseTable::owner_of(HolderId holder, LeaseId lease) {
  const auto owner = holders_.find(holder.value);
  DAXFS_REQUIRE(owner != holders_.end() && owner->second.leases.contains(lease),
                "holder {} has no lease {}", holder.value, lease.value);
  return owner->second;
}

std::vector<Arrival> LeaseTable::take_breaks(LeaseId lease) {
  std::vector<Arrival> waiting;
  for (auto it = breaks_.lower_bound({lease, 0}); it != breaks_.end() && it->first.first == lease;
       it = breaks_.erase(it)) {
    waiting.push_back(it->first.second);
  }
  return waiting;
}

std::vector<Arrival> LeaseTable::shrink(HolderId holder, LeaseId lease, FileOffset offset,
                                        ByteCount length) {
  Holder& owner = owner_of(holder, lease);
  LeaseInfo& info = owner.leases.find(lease)->second;
  info.offset = offset;
  info.length = length;
  owner.asked.erase(lease);
  return take_breaks(lease);
}

std::vector<Arrival> LeaseTable::remove(HolderId holder, LeaseId lease) {
  Holder& owner = owner_of(holder, lease);
  const auto it = owner.leases.find(lease);
  by_inode_.erase({it->second.inode, lease});
  by_id_.erase(lease);
  const auto user = by_user_.find(it->second.requester.uid);
  DAXFS_REQUIRE(user != by_user_.end(), "lease {} of user {} was not counted", lease.value,
                it->second.requester.uid);
  if (--user->second == 0) by_user_.erase(user);
  owner.leases.erase(it);
  owner.asked.erase(lease);
  return take_breaks(lease);
}

std::vector<LeaseInfo> LeaseTable::of(HolderId holder) const {
  std::vector<LeaseInfo> result;
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return result;
  for (const auto& [id, lease] : owner->second.leases) result.push_back(lease);
  return result;
}

void LeaseTable::forget(HolderId holder) { holders_.erase(holder.value); }

bool LeaseTable::covered_with(HolderId holder, InodeNumber inode, FileRange range, LeaseId shorter,
                              FileRange instead) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return false;
  std::vector<FileRange> parts;
  for (const auto& [id, lease] : owner->second.leases) {
    if (lease.inode == inode) parts.push_back(id == shorter ? instead : lease.range());
  }
  std::sort(parts.begin(), parts.end());
  FileBlock at = range.start;
  for (const FileRange& part : parts) {
    if (part.empty()) continue;
    if (part.start > at) break;
    at = std::max(at, part.end());
  }
  return at >= range.end();
}

std::optional<LeaseId> LeaseTable::over(HolderId holder, InodeNumber inode, FileRange range) const {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return std::nullopt;
  for (const auto& [id, lease] : owner->second.leases) {
    if (lease.inode == inode && overlap(lease.range(), range)) return id;
  }
  return std::nullopt;
}

LeaseTable::InTheWay LeaseTable::in_the_way(InodeNumber inode, FileRange range,
                                            std::optional<HolderId> own, pid_t process) const {
  InTheWay result;
  for (auto it = by_inode_.lower_bound({inode, LeaseId{}});
       it != by_inode_.end() && it->first.first == inode; ++it) {
    if (it->second == own) continue;
    const LeaseInfo& lease = *find(it->second, it->first.second);
    if (!overlap(lease.range(), range)) continue;
    result.exclusive = result.exclusive || lease.exclusive;
    result.foreign = result.foreign || process == 0 || lease.requester.process != process;
    result.leases.push_back(lease);
  }
  return result;
}

bool LeaseTable::begin_break(LeaseId lease, Arrival request, SteadyTime deadline) {
  const auto [it, fresh] = breaks_.insert({{lease, request}, deadline});
  it->second = deadline;
  return fresh;
}

std::optional<SteadyTime> LeaseTable::breaking(LeaseId lease) const {
  std::optional<SteadyTime> first;
  for (auto it = breaks_.lower_bound({lease, 0}); it != breaks_.end() && it->first.first == lease;
       ++it) {
    if (!first || it->second < *first) first = it->second;
  }
  return first;
}

void LeaseTable::tell(const LeaseInfo& lease, const LeaseNews& news) {
  LeaseNews mine = news;
  mine.lease = lease.id;
  mine.range = intersection(news.range, lease.range());
  const auto [it, fresh] = owner_of(lease.holder, lease.id).asked.insert({lease.id, mine});
  if (fresh) return;
  LeaseNews& unread = it->second;
  mine.range = hull(unread.range, mine.range);
  // What is still to be answered matters more than what has been decided.
  if (!mine.deadline || (unread.deadline && *unread.deadline < *mine.deadline)) {
    mine.deadline = unread.deadline;
  }
  unread = mine;
}

std::vector<Arrival> LeaseTable::revoke(const LeaseInfo& lease, LeaseNews news) {
  news.kind = LeaseNews::Kind::revoked;
  news.lease = lease.id;
  news.range = lease.range();
  news.deadline.reset();
  std::vector<Arrival> waiting = remove(lease.holder, lease.id);
  std::deque<LeaseNews>& revoked = holders_.find(lease.holder.value)->second.revoked;
  if (revoked.size() == kMostRevoked) revoked.pop_front();
  revoked.push_back(news);
  return waiting;
}

std::optional<LeaseNews> LeaseTable::next_news(HolderId holder) {
  const auto owner = holders_.find(holder.value);
  if (owner == holders_.end()) return std::nullopt;
  Holder& of = owner->second;
  LeaseNews news;
  if (!of.revoked.empty()) {
    news = of.revoked.front();
    of.revoked.pop_front();
  } else if (!of.asked.empty()) {
    news = of.asked.begin()->second;
    of.asked.erase(of.asked.begin());
  } else {
    return std::nullopt;
  }
  return news;
}

bool LeaseTable::has_news(HolderId holder) const {
  const auto owner = holders_.find(holder.value);
  return owner != holders_.end() && !(owner->second.asked.empty() && owner->second.revoked.empty());
}

std::vector<LeaseInfo> LeaseTable::after(LeaseId after, std::size_t limit) const {
  std::vector<LeaseInfo> result;
  for (auto it = by_id_.upper_bound(after); it != by_id_.end() && result.size() < limit; ++it) {
    result.push_back(*find(it->second, it->first));
  }
  return result;
}

}  // namespace daxfs
