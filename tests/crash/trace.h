// What a program did to a medium, call by call, and where its operations began and ended.
#pragma once

#include <cstdint>
#include <vector>

namespace daxfs::testing {

struct Event {
  enum class Kind : std::uint8_t {
    store,        // through the caches, and its lines flushed
    nontemporal,  // past the caches: write() and zero()
    fence,
    begin,  // of operation number `operation`
    end,
  };
  Kind kind;
  // A store whose lines nobody flushed is durable only by luck (planted bugs: the medium itself
  // always flushes).
  bool flushed = true;
  bool word_atomic = true;  // false: words may tear in the middle (planted bugs)
  unsigned thread = 0;
  std::uint32_t operation = 0;
  std::uint64_t offset = 0;          // of the first aligned 8-byte word that was touched
  std::vector<std::uint64_t> words;  // as they were after the call

  bool changes() const { return kind == Kind::store || kind == Kind::nontemporal; }
  std::uint64_t end_offset() const { return offset + words.size() * sizeof(std::uint64_t); }
};

using Trace = std::vector<Event>;

}  // namespace daxfs::testing
