// What a crash may lose and what it may leave: the memory model.
//
// A change reaches the medium in units of aligned 8-byte words, at any time between the call and
// the end of the same thread's next fence. Calls that touch the same cache line arrive in their
// order: of a line, some first calls are there wholly, and of the next one any words. Different
// lines have nothing to do with each other. After a fence what was flushed is durable, and what the
// line held before it as well. Non-temporal stores are no different, but they need no flush.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/crash/reversible_medium.h"
#include "tests/crash/trace.h"

namespace daxfs::testing {

// How much of a line arrived: the words of its first `steps` calls, and of the next one those in
// `mask`.
struct LineCut {
  std::uint64_t offset;
  std::uint32_t steps;
  std::uint8_t mask;
  // Of torn words (planted bugs only): only the low half arrived.
  std::uint8_t torn = 0;

  constexpr bool operator==(const LineCut&) const = default;
};
// What of the pending lines arrived. Lines that are not named did not.
using Cut = std::vector<LineCut>;

// "0x12340=2+0f,..." and back; throws std::runtime_error.
std::string to_string(const Cut& cut);
Cut parse_cut(std::string_view text);

class PendingLines {
 public:
  struct Step {
    unsigned mask;  // words that the call touched
    bool flushed;
    bool word_atomic;
    unsigned thread;
    std::uint32_t event;
    std::array<std::uint64_t, kLineWords> words;
  };
  struct Line {
    std::uint64_t offset;
    std::vector<Step> steps;
  };

  void add(const Event& event, std::uint32_t number);
  // What becomes durable is put into `medium`.
  void fence(unsigned thread, ReversibleMedium& medium);

  const std::vector<Line>& lines() const { return lines_; }  // in the order of their first calls
  bool empty() const { return lines_.empty(); }
  // Puts what arrived into the medium. Lines that are not pending are ignored.
  void apply(const Cut& cut, ReversibleMedium& medium) const;

 private:
  void put(const Line& line, const LineCut& cut, ReversibleMedium& medium) const;

  std::vector<Line> lines_;
  absl::flat_hash_map<std::uint64_t, std::size_t> places_;  // of lines, by offset
};

}  // namespace daxfs::testing
