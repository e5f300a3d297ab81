#include "tests/unit/gate_history.h"

#include <algorithm>
#include <sstream>

namespace daxfs::test {
namespace {

struct OpInfo {
  const char* word;
  std::size_t arguments;
  const char* meaning;
};
// N: a request, and the pin or lease that it took; HOLDER: a slot. Ranges are in file blocks.
constexpr std::array<OpInfo, 19> kOps{{
    {"write", 4, "INODE FIRST COUNT BLOCK: fills holes with free blocks, from BLOCK on"},
    {"detach", 6, "N INODE FIRST COUNT PROCESS HOLDER (-1: none): begins; COUNT 0 is a truncate"},
    {"pin", 9, "N INODE FIRST COUNT PROCESS USER HOLDER SHORT NOWAIT: begins"},
    {"lease", 8, "N INODE FIRST COUNT PROCESS HOLDER EXCLUSIVE NOWAIT: begins"},
    {"try", 1, "N: asks the gate, unless it is parked; goes ahead, or ends, as that says"},
    {"unpin", 1, "N"},
    {"unlease", 1, "N"},
    {"shrink", 3, "N FIRST COUNT: of a lease"},
    {"news", 1, "HOLDER: reads one"},
    {"close", 1, "HOLDER: unless it has open requests; then there is a new one"},
    {"die", 1, "HOLDER: its requests are interrupted, and its pins are in grace"},
    {"over", 1, "N: the grace of one who died, modulo how many there are"},
    {"cancel", 1, "N"},
    {"tick", 1, "MILLISECONDS"},
    {"options", 8, "POLICY ON_TIMEOUT LONGTERM SHORT WAIT BREAK PIN_LIMIT LIMBO_LIMIT (-1: none)"},
    {"own", 2, "INODE POLICY: of a file (-1: none)"},
    {"last_close", 1, "INODE: all blocks leave, unasked"},
    {"process", 1, "PROCESS: has ended, as the gate's user says; or has not, if it had"},
    {"stop", 0, ""},
}};

const OpInfo& info(const GateStep& step) { return kOps[static_cast<std::size_t>(step.op)]; }

GateHistory without(const GateHistory& history, std::size_t first, std::size_t count) {
  GateHistory result(history.begin(), history.begin() + static_cast<std::ptrdiff_t>(first));
  const std::size_t next = std::min(first + count, history.size());
  result.insert(result.end(), history.begin() + static_cast<std::ptrdiff_t>(next), history.end());
  return result;
}

}  // namespace

std::string to_text(const GateHistory& history) {
  std::ostringstream out;
  std::vector<bool> explained(kOps.size());
  for (const GateStep& step : history) {
    const OpInfo& op = info(step);
    out << op.word;
    for (std::size_t i = 0; i < op.arguments; ++i) out << ' ' << step.arguments[i];
    out << '\n';
    explained[static_cast<std::size_t>(step.op)] = true;
  }
  for (std::size_t i = 0; i < kOps.size(); ++i) {
    if (explained[i]) out << "# " << kOps[i].word << ' ' << kOps[i].meaning << '\n';
  }
  return out.str();
}

std::optional<GateHistory> parse_history(const std::string& text) {
  GateHistory result;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word.front() == '#') continue;
    const auto op = std::find_if(kOps.begin(), kOps.end(),
                                 [&](const OpInfo& candidate) { return candidate.word == word; });
    if (op == kOps.end()) return std::nullopt;
    GateStep step{.op = static_cast<GateStep::Op>(op - kOps.begin()), .arguments = {}};
    for (std::size_t i = 0; i < op->arguments; ++i) {
      if (!(words >> step.arguments[i])) return std::nullopt;
    }
    result.push_back(step);
  }
  return result;
}

std::optional<GateMismatch> replay(const GateHistory& history) {
  GateReplay both;
  for (std::size_t i = 0; i < history.size(); ++i) {
    std::string wrong = both.apply(history[i]);
    if (!wrong.empty()) return GateMismatch{i, std::move(wrong)};
  }
  return std::nullopt;
}

// As delta debugging does: ever smaller pieces are left out, as long as it still goes wrong.
GateHistory shorten(GateHistory history) {
  constexpr int kMostTries = 2000;
  int tries = 0;
  for (std::size_t piece = history.size() / 2; piece > 0; piece /= 2) {
    for (std::size_t at = 0; at < history.size() && tries < kMostTries;) {
      GateHistory shorter = without(history, at, piece);
      ++tries;
      if (const auto wrong = replay(shorter)) {
        shorter.resize(wrong->step + 1);
        history = std::move(shorter);
      } else {
        at += piece;
      }
    }
  }
  return history;
}

}  // namespace daxfs::test
