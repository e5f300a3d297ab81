// Histories of the gate: steps as plain numbers, so that any history can be cut shorter, printed
// and replayed; and what carries them out on a gate and its specification side by side.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/gate_model.h"

namespace daxfs::test {

struct GateStep {
  // In this order in kOps (gate_history.cpp), which says what the numbers mean.
  enum class Op : std::uint8_t {
    write,
    detach,
    pin,
    lease,
    attempt,
    unpin,
    unlease,
    shrink,
    news,
    close,
    die,
    over,
    cancel,
    tick,
    options,
    own_policy,
    last_close,
    process,
    stop,
  };
  static constexpr std::size_t kMostArguments = 9;
  Op op = Op::stop;
  std::array<std::int64_t, kMostArguments> arguments{};
};
using GateHistory = std::vector<GateStep>;

// One step a line: a word and numbers; and the other way round. Lines that begin with # are
// comments.
std::string to_text(const GateHistory& history);
// Nothing if a line is not understood.
std::optional<GateHistory> parse_history(const std::string& text);

inline constexpr const char* kGateIsStuck = "the gate's thread goes on";

// A gate with a clock of its own beside its specification. What a step refers to and is not there
// makes it a step that does nothing, so that a history can lose some of its steps and remain one.
class GateReplay {
 public:
  GateReplay();
  ~GateReplay();
  GateReplay(const GateReplay&) = delete;
  GateReplay& operator=(const GateReplay&) = delete;

  // What the gate did otherwise than it should; empty if nothing. Nothing may follow what begins
  // with kGateIsStuck.
  std::string apply(const GateStep& step);

  // To choose the next step by.
  const GateModel& model() const;
  // Requests that have begun or been woken, and are to be tried (again).
  const std::vector<int>& idle() const;
  std::int64_t slot_of(int holder) const;  // -1: it has been closed
  std::size_t in_grace() const;            // how many holders have died and have their pins still
  struct Seen {
    int parked = 0;
    int ahead = 0;
    int waits_for_own_lease = 0;        // EDEADLK for leases alone
    int repeated = 0;                   // requests that have taken the place of another
    int behind_the_interrupted = 0;     // waits for one that may be repeated
    std::vector<std::uint64_t> events;  // by kind
  };
  const Seen& seen() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Carries it all out; what went wrong, and at which step.
struct GateMismatch {
  std::size_t step;
  std::string what;
};
std::optional<GateMismatch> replay(const GateHistory& history);

// A shorter history that goes wrong as well: without what is not needed for that.
GateHistory shorten(GateHistory history);

}  // namespace daxfs::test
