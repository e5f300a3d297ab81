// What daxfs-hold says: lines for people, or one JSON object a line. Flushed at once, since scripts
// wait for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "blockmap/result.h"
#include "blockmap/units.h"
#include "tools/hold_pattern.h"

namespace daxfs::hold {

struct Totals {
  std::uint64_t rounds = 0;
  std::uint64_t checks = 0;   // blocks compared
  std::uint64_t foreign = 0;  // of which so many held somebody else's bytes
};

class Report {
 public:
  Report(bool json, std::string path) : json_(json), path_(std::move(path)) {}

  void held(std::uint64_t pin, FileOffset offset, ByteCount length, std::size_t extents,
            HolderTag holder);
  // `seen_in` says where the wrong bytes were seen. After a few, further ones are only counted.
  void foreign(const Foreign& foreign, PoolOffset pool, std::string_view seen_in);
  void daemon_gone();
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
