#include "tests/crash/pending_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <stdexcept>

namespace daxfs::testing {

void PendingLines::add(const Event& event, std::uint32_t number) {
  std::size_t word = 0;
  while (word < event.words.size()) {
    const std::uint64_t at = event.offset + word * sizeof(std::uint64_t);
    const std::uint64_t start = at / kLineBytes * kLineBytes;
    const auto [place, fresh] = places_.try_emplace(start, lines_.size());
    if (fresh) lines_.push_back({start, {}});
    Step step{.mask = 0,
              .flushed = event.flushed || event.kind == Event::Kind::nontemporal,
              .word_atomic = event.word_atomic,
              .thread = event.thread,
              .event = number,
              .words = {}};
    for (std::size_t i = (at - start) / sizeof(std::uint64_t);
         i < kLineWords && word < event.words.size(); ++i, ++word) {
      step.mask |= 1u << i;
      step.words[i] = event.words[word];
    }
    lines_[place->second].steps.push_back(step);
  }
}

void PendingLines::put(const Line& line, const LineCut& cut, ReversibleMedium& medium) const {
  std::array<std::uint64_t, kLineWords> words{};
  unsigned mask = 0;
  const auto take = [&](const Step& step, unsigned which) {
    for (std::size_t i = 0; i < kLineWords; ++i) {
      if ((which >> i & 1) != 0) words[i] = step.words[i];
    }
    mask |= which;
  };
  const std::size_t whole = std::min<std::size_t>(cut.steps, line.steps.size());
  for (std::size_t i = 0; i < whole; ++i) take(line.steps[i], line.steps[i].mask);
  if (whole < line.steps.size()) {
    const Step& next = line.steps[whole];
    take(next, next.mask & cut.mask);
    const unsigned torn = next.word_atomic ? 0 : next.mask & cut.torn;
    for (std::size_t i = 0; i < kLineWords; ++i) {
      if ((torn >> i & 1) == 0) continue;
      std::uint64_t before = words[i];
      if ((mask >> i & 1) == 0) {
        before = medium.load<std::uint64_t>(PoolOffset(line.offset + i * sizeof before));
      }
      constexpr std::uint64_t kLow = 0xffffffff;
      words[i] = (before & ~kLow) | (next.words[i] & kLow);
      mask |= 1u << i;
    }
  }
  medium.set_line(line.offset, mask, words);
}

void PendingLines::apply(const Cut& cut, ReversibleMedium& medium) const {
  for (const LineCut& part : cut) {
    const auto place = places_.find(part.offset);
    if (place != places_.end()) put(lines_[place->second], part, medium);
  }
}

void PendingLines::fence(unsigned thread, ReversibleMedium& medium) {
  std::vector<Line> rest;
  for (Line& line : lines_) {
    std::size_t durable = line.steps.size();
    while (durable > 0 &&
           (line.steps[durable - 1].thread != thread || !line.steps[durable - 1].flushed)) {
      --durable;
    }
    put(line, {line.offset, static_cast<std::uint32_t>(durable), 0}, medium);
    if (durable == line.steps.size()) continue;
    line.steps.erase(line.steps.begin(), line.steps.begin() + static_cast<std::ptrdiff_t>(durable));
    rest.push_back(std::move(line));
  }
  lines_ = std::move(rest);
  places_.clear();
  for (std::size_t i = 0; i < lines_.size(); ++i) places_.emplace(lines_[i].offset, i);
}

std::string to_string(const Cut& cut) {
  std::string out;
  for (const LineCut& line : cut) {
    if (!out.empty()) out += ',';
    out += fmt::format("{:#x}={}", line.offset, line.steps);
    if (line.mask != 0 || line.torn != 0) out += fmt::format("+{:02x}", line.mask);
    if (line.torn != 0) out += fmt::format("/{:02x}", line.torn);
  }
  return out.empty() ? "none" : out;
}

Cut parse_cut(std::string_view text) {
  Cut cut;
  if (text == "none") return cut;
  const auto wrong = [&] {
    return std::runtime_error(
        fmt::format("\"{}\" says no cache lines; right is \"none\" or \"0x12340=2+0f,...\"", text));
  };
  std::string_view rest = text;
  const auto number = [&](int base) {
    std::uint64_t value = 0;
    const auto read = std::from_chars(rest.data(), rest.data() + rest.size(), value, base);
    if (read.ec != std::errc()) throw wrong();
    rest.remove_prefix(static_cast<std::size_t>(read.ptr - rest.data()));
    return value;
  };
  const auto skip = [&](std::string_view what) {
    if (!rest.starts_with(what)) return false;
    rest.remove_prefix(what.size());
    return true;
  };
  do {
    LineCut line{};
    if (!skip("0x")) throw wrong();
    line.offset = number(16);
    if (!skip("=")) throw wrong();
    line.steps = static_cast<std::uint32_t>(number(10));
    if (skip("+")) line.mask = static_cast<std::uint8_t>(number(16));
    if (skip("/")) line.torn = static_cast<std::uint8_t>(number(16));
    cut.push_back(line);
  } while (skip(","));
  if (!rest.empty()) throw wrong();
  return cut;
}

}  // namespace daxfs::testing
