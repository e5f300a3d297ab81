#include "tools/fsck/fold.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>

namespace daxfs {
namespace {

using fsck::Finding;

// Stands in a template for the number that differs. No object or text has it.
constexpr char kNumber = '\0';
// A line with more ranges is hard to read: another one begins.
constexpr std::size_t kMostRanges = 16;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A piece of text that is a number as a whole, outside of quotation marks.
struct NumberAt {
  std::size_t begin;
  std::size_t length;
};

std::vector<NumberAt> numbers_in(std::string_view text) {
  std::vector<NumberAt> found;
  bool quoted = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    // Inside a name a backslash takes its neighbour along.
    if (quoted && text[at] == '\\') {
      ++at;
    } else if (text[at] == '"') {
      quoted = !quoted;
    } else if (!quoted && is_digit(text[at])) {
      std::size_t end = at;
      while (end < text.size() && is_digit(text[end])) ++end;
      found.push_back({at, end - at});
      at = end - 1;
    }
  }
  return found;
}

std::optional<std::uint64_t> value_of(std::string_view digits) {
  if (digits.size() > 18) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : digits) value = value * 10 + static_cast<std::uint64_t>(c - '0');
  return value;
}

// The text with kNumber in the place of this number, wherever it stands.
std::string without(std::string_view text, std::string_view number) {
  std::string result;
  std::size_t copied = 0;
  for (const auto& [begin, length] : numbers_in(text)) {
    if (text.substr(begin, length) != number) continue;
    result += text.substr(copied, begin - copied);
    result += kNumber;
    copied = begin + length;
  }
  return result += text.substr(copied);
}

std::string with(std::string_view text, std::string_view number) {
  std::string result;
  for (const char c : text) {
    if (c == kNumber) {
      result += number;
    } else {
      result += c;
    }
  }
  return result;
}

// Findings that would be one line.
struct Group {
  std::vector<const Finding*> findings;
  std::string object;  // with kNumber
  std::string text;
  std::vector<std::uint64_t> values;  // of kNumber; empty if there is none
};

// What is to be left out of the finding for its group: a number of its object, or of its text.
std::optional<std::string_view> differing_number(const Finding& finding, bool of_object) {
  const std::string_view text = of_object ? finding.object : finding.text;
  const auto numbers = numbers_in(text);
  if (numbers.empty()) return std::nullopt;
  const NumberAt chosen = of_object ? numbers.back() : numbers.front();
  return text.substr(chosen.begin, chosen.length);
}

Group group_of(const Finding& finding, bool of_object) {
  Group group{{&finding}, finding.object, finding.text, {}};
  const auto number = differing_number(finding, of_object);
  const auto value = number ? value_of(*number) : std::nullopt;
  if (!value) return group;
  if (of_object) group.object = without(finding.object, *number);
  group.text = without(finding.text, *number);
  group.values = {*value};
  return group;
}

std::vector<Group> grouped(const std::vector<const Finding*>& findings, bool of_object) {
  std::vector<Group> groups;
  std::unordered_map<std::string, std::size_t> places;
  for (const Finding* finding : findings) {
    Group one = group_of(*finding, of_object);
    const std::string key =
        fmt::format("{} {} {} {}\n{}", static_cast<int>(finding->code),
                    static_cast<int>(finding->severity), finding->fixed, one.object, one.text);
    const auto [place, fresh] = places.try_emplace(key, groups.size());
    if (fresh) {
      groups.push_back(std::move(one));
      continue;
    }
    Group& group = groups[place->second];
    group.findings.push_back(finding);
    group.values.insert(group.values.end(), one.values.begin(), one.values.end());
  }
  return groups;
}

// Appends "17-20, 23" and the like, of at most kMostRanges ranges each.
std::vector<std::pair<std::string, std::uint64_t>> ranges_of(std::vector<std::uint64_t> values) {
  std::ranges::sort(values);
  std::vector<std::pair<std::string, std::uint64_t>> lines;
  std::size_t ranges = 0;
  for (std::size_t begin = 0; begin < values.size();) {
    std::size_t end = begin + 1;
    while (end < values.size() && values[end] - values[end - 1] <= 1) ++end;
    if (ranges++ % kMostRanges == 0) lines.emplace_back();
    auto& [text, times] = lines.back();
    if (!text.empty()) text += ", ";
    text += values[begin] == values[end - 1] ? fmt::format("{}", values[begin])
                                             : fmt::format("{}-{}", values[begin], values[end - 1]);
    times += end - begin;
    begin = end;
  }
  return lines;
}

void append_lines(const Group& group, std::vector<FoldedFinding>& out) {
  const Finding& first = *group.findings.front();
  if (group.findings.size() == 1 || group.values.empty()) {
    out.push_back({&first, first.object, first.text, group.findings.size()});
    return;
  }
  for (const auto& [numbers, times] : ranges_of(group.values)) {
    out.push_back({&first, with(group.object, numbers), with(group.text, numbers), times});
  }
}

}  // namespace

std::vector<FoldedFinding> fold(const std::vector<Finding>& findings) {
  std::vector<const Finding*> all;
  all.reserve(findings.size());
  for (const Finding& finding : findings) all.push_back(&finding);
  const std::vector<Group> by_object = grouped(all, true);

  // What nothing else says of another object may be said of several places in one.
  std::vector<const Finding*> alone;
  for (const Group& group : by_object) {
    if (group.findings.size() == 1) alone.push_back(group.findings.front());
  }
  std::unordered_map<const Finding*, const Group*> by_text;
  const std::vector<Group> groups = grouped(alone, false);
  for (const Group& group : groups) by_text[group.findings.front()] = &group;

  std::vector<FoldedFinding> out;
  for (const Group& group : by_object) {
    const auto place = by_text.find(group.findings.front());
    if (group.findings.size() > 1) {
      append_lines(group, out);
    } else if (place != by_text.end()) {
      append_lines(*place->second, out);
    }
  }
  return out;
}

}  // namespace daxfs
