#include "tests/crash/trace_edit.h"

#include <cstring>
#include <utility>

#include "base/crc32c.h"
#include "tests/crash/objects.h"
#include "tests/crash/reversible_medium.h"

namespace daxfs::testing {
namespace {

constexpr std::size_t kHeaderWords = 2;

// The commit that begins at `at`, and where it ends.
std::optional<std::pair<Commit, std::size_t>> commit_at(const Trace& trace, std::size_t at,
                                                        const pmem::Superblock& super) {
  const auto is = [&](std::size_t i, Event::Kind kind) {
    return i < trace.size() && trace[i].kind == kind;
  };
  if (!is(at, Event::Kind::nontemporal) || !in_journal(super, trace[at].offset)) return {};
  Commit commit{.lane = trace[at], .applied = {}, .emptied = {}, .fence = {}};
  if (!is(++at, Event::Kind::fence)) return {};
  commit.fence = trace[at];
  while (is(++at, Event::Kind::store)) commit.applied.push_back(trace[at]);
  if (!is(at, Event::Kind::fence) || !is(at + 1, Event::Kind::nontemporal) ||
      !is(at + 2, Event::Kind::fence)) {
    return {};
  }
  commit.emptied = trace[at + 1];
  return std::pair(std::move(commit), at + 3);
}

}  // namespace

std::vector<JournalRecord> Commit::records() const {
  std::vector<JournalRecord> out;
  const std::size_t end = kHeaderWords + (lane.words[0] >> 32) / sizeof(std::uint64_t);
  for (std::size_t at = kHeaderWords; at + 2 <= end && at + 2 <= lane.words.size();) {
    JournalRecord record{.offset = lane.words[at],
                         .length = static_cast<std::uint32_t>(lane.words[at + 1]),
                         .words = {}};
    const std::size_t words = (record.length + 7) / 8;
    const auto data = lane.words.begin() + static_cast<std::ptrdiff_t>(at + 2);
    record.words.assign(data, data + static_cast<std::ptrdiff_t>(words));
    out.push_back(std::move(record));
    at += 2 + words;
  }
  return out;
}

void Commit::set_records(const std::vector<JournalRecord>& records) {
  const std::uint64_t sequence = lane.words[1];
  lane.words = {0, sequence};
  for (const JournalRecord& record : records) {
    lane.words.push_back(record.offset);
    lane.words.push_back(record.length);
    lane.words.insert(lane.words.end(), record.words.begin(), record.words.end());
  }
  const std::uint64_t bytes = (lane.words.size() - kHeaderWords) * sizeof(std::uint64_t);
  lane.words[0] = bytes << 32;
  const auto all = std::as_bytes(std::span(lane.words));
  constexpr std::size_t kHeaderBytes = kHeaderWords * sizeof(std::uint64_t);
  lane.words[0] |= sealed_crc(all.subspan(kHeaderBytes), crc32c(all.first(kHeaderBytes)));
  while (lane.words.size() % kLineWords != 0) lane.words.push_back(0);
}

void Commit::append_to(Trace& trace) const {
  trace.push_back(lane);
  trace.push_back(fence);
  trace.insert(trace.end(), applied.begin(), applied.end());
  trace.push_back(fence);
  trace.push_back(emptied);
  trace.push_back(fence);
}

void edit_commits(Trace& trace, const pmem::Superblock& super,
                  const std::function<void(Commit& commit, Trace& out)>& edit) {
  Trace out;
  for (std::size_t at = 0; at < trace.size();) {
    if (auto found = commit_at(trace, at, super)) {
      edit(found->first, out);
      at = found->second;
    } else {
      out.push_back(trace[at++]);
    }
  }
  trace = std::move(out);
}

void drop_events(Trace& trace,
                 const std::function<bool(const Event* before, const Event& event)>& drop) {
  Trace out;
  out.reserve(trace.size());  // `before` points into it
  const Event* before = nullptr;
  for (Event& event : trace) {
    if (drop(before, event)) continue;
    out.push_back(std::move(event));
    if (out.back().changes()) before = &out.back();
  }
  trace = std::move(out);
}

}  // namespace daxfs::testing
