// The inside of GateReplay: a gate, its specification, and what belongs to both. gate_replay.cpp
// carries steps out, gate_compare.cpp compares.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "tests/unit/gate_history.h"

namespace daxfs::test {

// The harness's own pin and requests, which the specification knows nothing of.
inline constexpr pid_t kOurs = 9000;

inline FileOffset offset_in(const GateModel::Range& range) {
  return offset_of(FileBlock(range.first));
}
inline ByteCount length_of(const GateModel::Range& range) {
  return bytes(BlockCount(shown_count(range)));
}

// What the gate says that has happened.
class GateRecorder final : public GateEvents {
 public:
  bool wanted() const noexcept override { return true; }
  void post(const GateEvent& event) noexcept override {
    if (event.process < kOurs) events.push_back(event);
  }
  std::vector<GateEvent> events;  // posted by whoever calls the gate: here one thread
};

struct GateReplay::Impl {
  using Model = GateModel;
  static constexpr std::size_t kHolders = 4;

  Model model;
  GateRecorder recorder;
  // Ahead of the real clock, so that only ticks let time pass.
  const SteadyTime start = std::chrono::steady_clock::now() + std::chrono::hours(1000);
  std::atomic<std::int64_t> elapsed_ms = 0;

  std::mutex mutex;  // protects the next two
  std::vector<int> woken;
  std::set<pid_t> ended;
  std::vector<Model::Block> freed;
  std::vector<HolderId> told;

  std::map<int, TicketRef> tickets;
  std::map<int, PinId> pins;  // by the number of the request
  std::map<int, LeaseId> leases;
  std::vector<HolderId> holders;          // by the specification's number of the holder
  std::array<int, kHolders> holder_of{};  // by slot
  std::vector<int> in_grace;              // holders that died
  std::vector<int> idle;
  Seen seen = nothing_seen();
  std::string wrong;
  PinId sentinel;
  Gate gate;

  Impl();
  static Seen nothing_seen() {
    Seen seen;
    seen.events.resize(GateEvent::kKinds);
    return seen;
  }
  SteadyTime at(Model::Time ms) const { return start + std::chrono::milliseconds(ms); }
  void new_holder(std::size_t slot);
  void settle();

  template <class Actual, class Expected>
  void expect(const char* what, const Actual& actual, const Expected& expected) {
    if (actual == expected || !wrong.empty()) return;
    std::ostringstream out;
    out << what << ": " << +actual << ", expected " << +expected;
    wrong = out.str();
  }
  void expect_true(const char* what, bool right) { expect(what, right, true); }

  // --- the steps ---
  void write(std::uint64_t inode, std::uint64_t first, std::uint64_t count, Model::Block block);
  void begin(Model::Request request);
  void attempt(int request);
  Model::Answer judge(const Model::Request& r, std::span<const PoolRange> where);
  Model::Answer pin(const Model::Request& r, std::span<const PoolRange> where);
  Model::Answer lease(const Model::Request& r);
  void unpin(int request);
  void unlease(int request);
  void shrink(int request, std::uint64_t first, std::uint64_t count);
  void news(std::size_t slot);
  void close(std::size_t slot, bool interrupt);
  void grace_over(std::size_t which);
  void drop(int holder);
  void cancel(int request);
  void options(const std::array<std::int64_t, GateStep::kMostArguments>& a);
  void last_close(std::uint64_t inode);
  void carry_out(const GateStep& step);

  // --- comparing ---
  void compare();
  void compare_woken();
  void compare_events();
  void compare_blocks();
  void compare_pins();
  void compare_leases();
};

}  // namespace daxfs::test
