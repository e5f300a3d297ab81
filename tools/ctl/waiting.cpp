#include "tools/ctl/waiting.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "client/daxfs.h"
#include "tools/ctl/print.h"

namespace daxfs::ctl {
namespace {

bool overlap(const Json& a, const Json& b) {
  const auto end = [](const Json& object) {
    const std::uint64_t offset = number_of(object, "offset");
    const std::uint64_t length = number_of(object, "length");
    return length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
  };
  return number_of(a, "offset") < end(b) && number_of(b, "offset") < end(a);
}

bool is_detach(const Json& request) {
  const std::string what = request.value("request", "");
  return what != "pin" && what != "lease";
}

std::string count_of(std::uint64_t count, std::string_view one, std::string_view many) {
  return count == 1 ? std::string(one) : fmt::format("{} {}", count, many);
}

}  // namespace

void WhoWaits::add_request(const Json& request) {
  requests_.push_back({request, {}, {}});
  const std::uint64_t inode = number_of(request, "inode");
  if (is_detach(request)) {
    by_inode_.emplace(inode, requests_.size() - 1);
    return;
  }
  // Those that came before it stand in the list already.
  const auto [begin, end] = by_inode_.equal_range(inode);
  for (auto at = begin; at != end; ++at) {
    const Json& earlier = requests_[at->second].request;
    if (overlap(earlier, request)) requests_.back().behind.push_back(number_of(earlier, "id"));
  }
}

void WhoWaits::add(const Json& held, std::uint64_t InTheWay::*count) {
  const auto [begin, end] = by_inode_.equal_range(number_of(held, "inode"));
  for (auto at = begin; at != end; ++at) {
    WaitingRequest& request = requests_[at->second];
    if (!overlap(request.request, held)) continue;
    const auto process = held.value("pid", std::int64_t{0});
    // A request does not wait for what its own process holds.
    if (process != 0 && process == request.request.value("pid", std::int64_t{0})) continue;
    auto& all = request.waits_for;
    auto found = std::find_if(all.begin(), all.end(),
                              [&](const InTheWay& one) { return one.process == process; });
    if (found == all.end()) {
      all.push_back({process, text_of(held, "command"), 0, 0});
      found = all.end() - 1;
    }
    ++((*found).*count);
  }
}

Outcome<WhoWaits> who_waits(const Mount& mount) {
  WhoWaits all;
  const auto each = [&](std::uint32_t what, void (WhoWaits::*add)(const Json&)) {
    return mount.query(what, [&](const Json& object) {
      (all.*add)(object);
      return true;
    });
  };
  auto asked = each(DAXFS_QUERY_WAITING, &WhoWaits::add_request);
  if (asked && !all.requests().empty()) asked = each(DAXFS_QUERY_PINS, &WhoWaits::add_pin);
  if (asked && !all.requests().empty()) asked = each(DAXFS_QUERY_LEASES, &WhoWaits::add_lease);
  if (!asked) return std::unexpected(asked.error());
  return all;
}

std::string in_words(const WaitingRequest& request, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(most, request.waits_for.size()); ++i) {
    const InTheWay& one = request.waits_for[i];
    if (!text.empty()) text += "; ";
    text += fmt::format("pid {} ({})", one.process, one.command);
    if (one.pins != 0) text += ", " + count_of(one.pins, "a pin", "pins");
    if (one.leases != 0) text += ", " + count_of(one.leases, "a lease", "leases");
  }
  if (request.waits_for.size() > most) {
    text += fmt::format("; {} more", request.waits_for.size() - most);
  }
  if (!request.behind.empty()) {
    text += (text.empty() ? "" : "; ") + fmt::format("request {}", request.behind.front());
    if (request.behind.size() > 1) text += fmt::format(" and {} more", request.behind.size() - 1);
  }
  return text.empty() ? "-" : text;
}

Json as_json(const WaitingRequest& request) {
  Json object = request.request;
  object["waits_for"] = Json::array();
  for (const InTheWay& one : request.waits_for) {
    object["waits_for"].push_back({{"pid", one.process},
                                   {"command", one.command},
                                   {"pins", one.pins},
                                   {"leases", one.leases}});
  }
  object["behind"] = request.behind;
  return object;
}

Outcome<void> show_waiting(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const auto all = who_waits(*mount);
  if (!all) return std::unexpected(all.error());
  if (json) {
    JsonArray array;
    for (const WaitingRequest& request : all->requests()) array.add(as_json(request));
    array.finish();
    return {};
  }
  Table table({{"REQUEST", true},
               {"WANTS"},
               {"OFFSET", true},
               {"LENGTH", true},
               {"PID", true},
               {"COMMAND"},
               {"UID", true},
               {"POLICY"},
               {"SINCE"},
               {"DEADLINE"},
               {"WAITS FOR"},
               {"PATH"}});
  for (const WaitingRequest& one : all->requests()) {
    const Json& request = one.request;
    table.add({text_of(request, "id"), text_of(request, "request"), text_of(request, "offset"),
               size_of(request, "length"), text_of(request, "pid"), text_of(request, "command"),
               text_of(request, "uid"), text_of(request, "policy"), time_of(request, "since"),
               time_of(request, "deadline"), in_words(one), text_of(request, "path")});
  }
  print(table.empty() ? "nobody waits\n" : table.text());
  return {};
}

}  // namespace daxfs::ctl
