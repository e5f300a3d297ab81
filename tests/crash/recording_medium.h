// A medium that records every change and can show what a crash might leave behind: the recorder and
// the memory model in one, for tests of single parts (the journal, mkfs).
#pragma once

#include <functional>
#include <random>

#include "tests/crash/crash_points.h"
#include "tests/crash/cuts.h"
#include "tests/crash/reversible_medium.h"

namespace daxfs::testing {

class RecordingMedium : public ReversibleMedium {
 public:
  explicit RecordingMedium(ByteCount size) : ReversibleMedium(size), start_(size) { mark_start(); }
  // Begins with a copy of `image`, all of it durable.
  explicit RecordingMedium(const Medium& image) : RecordingMedium(image.size()) {
    copy_from(image);
    mark_start();
  }

  // Forgets the record: exploration starts from the present state, taken as durable.
  void mark_start() {
    trace_.clear();
    start_.copy_from(*this);
    record_to(&trace_);
  }
  // How many calls (changes and fences) were recorded since mark_start().
  std::size_t calls() const {
    const std::lock_guard lock(mutex_);
    return trace_.size();
  }

  // A crash state: the image may be changed (recovered), it is set back for the next one. `done` is
  // how many of the recorded calls had been made; the last states have all of them.
  using Visitor = std::function<void(ReversibleMedium& image, std::size_t done)>;
  // Call it when no other thread uses the medium. Returns the number of states shown.
  std::size_t explore(const CutOptions& options, std::uint64_t seed, const Visitor& visit) {
    std::size_t states = 0;
    std::mt19937_64 random(seed);
    const auto begin = start_.mark();
    play(trace_, start_, [&](const Moment& moment, const PendingLines& pending) {
      for_each_cut(
          pending, options, [](std::uint64_t offset) { return offset / kBlockSize; }, random,
          [&](const Cut& cut) {
            const auto durable = start_.mark();
            pending.apply(cut, start_);
            ++states;
            visit(start_, moment.at);
            start_.roll_back(durable);
          });
    });
    start_.roll_back(begin);
    return states;
  }

 private:
  ReversibleMedium start_;  // what was durable at mark_start()
  Trace trace_;
};

}  // namespace daxfs::testing
