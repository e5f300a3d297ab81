// What daxfs-hold says: lines for people, or one JSON object a line. Flushed at once, since scripts
// wait for them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/units.h"
#include "client/daxfs.h"
#include "tools/hold/options.h"
#include "tools/hold/pattern.h"

namespace daxfs::hold {

struct Totals {
  std::uint64_t rounds = 0;
  std::uint64_t checks = 0;   // blocks compared
  std::uint64_t foreign = 0;  // of which so many held somebody else's bytes
};

class Report {
 public:
  Report(bool json, std::string path) : json_(json), path_(std::move(path)) {}

  struct Held {
    std::uint64_t pin;  // the first
    std::uint64_t pins;
    ByteRange range;
    std::size_t extents;
    std::uint64_t lease;  // 0: none
    std::chrono::duration<double> took;
  };
  void held(const Held& held, HolderTag holder);
  // What a holder does when it was asked for its range.
  enum class Answer : std::uint8_t { gives_way, ignores, too_late };
  // A holder of a lease was told something.
  void told(const daxfs_event& event, Answer answer);
  void gave_up(FileRange blocks, std::uint64_t pins, std::uint64_t pins_left);
  void nothing_left();
  // `seen_in` says where the wrong bytes were seen. After a few, further ones are only counted.
  void foreign(const Foreign& foreign, PoolOffset pool, std::string_view seen_in);
  void daemon_gone(bool short_term);
  // The pins are the new daemon's now: `adopted` of `pins`.
  void adopted(std::uint64_t adopted, std::uint64_t pins, std::uint64_t leases);
  // Something went wrong that does not end the holding.
  void note(const Problem& problem);
  void detached(FileOffset offset);
  void released(const Totals& totals);
  void failed(const Problem& problem);

 private:
  const bool json_;
  const std::string path_;
  std::uint64_t foreign_lines_ = 0;
  bool detached_said_ = false;
};

}  // namespace daxfs::hold
