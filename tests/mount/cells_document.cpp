// docs/cells.md: the cells as tables, for people.
#include <cerrno>
#include <span>

#include "tests/mount/cells.h"

namespace daxfs::test {
namespace {

constexpr const char* kIntroduction = R"(# Every policy, cell by cell

What happens when a request meets a holder: each policy × `longterm=` × holder × operation. This page is written by
the test that checks each cell on a real mount (`tests/mount/cells_test.cpp`, from the specification in
`tests/mount/cells.cpp`); do not edit it, but run

    DAXFS_WRITE_CELLS=1 build/release/tests/tests_mount "docs/cells.md*"

The scene: a file of six blocks. A holder, another process than the requester's unless it is said to be *own*, has
the third and fourth block. The requester truncates the file to one block, opens it with O_TRUNC, punches or zeroes
all blocks but the first, renames a file over it, or unlinks it and closes it. It asks by path or through an open
file description of its own, also where the holder is its own process. (What is asked through the holder's open file
description, by `ftruncate` or `fallocate`, does not find its own leases in the way, whatever the policy.)

| word | means |
|---|---|
| ETXTBSY, EDEADLK | fails so, and nothing has changed: neither data, size, holes, times nor free space |
| done | as asked; every block that left the file is free |
| done, limbo | as asked; the two held blocks are in limbo, the others free. At the last unpin they become free |
| done, kept | as asked; the file has lost its name, and keeps its blocks until the holder closes it |
| done, reused | as asked; all blocks are free, although the holder still uses two of them |
| in place | written over with zeroes; no block leaves the file |
| *short,* | after `short_timeout`; or earlier, if the holder gives way |
| *waits,* | after `wait_timeout` or `break_timeout`; or earlier, if the holder gives way |
| told: changed | the lease's holder is told that the layout changes; nothing to answer |
| told: asked | the lease's holder is asked to give way, with a deadline |
| told: revoked | after having been asked, it is told that its lease has been taken away |

In no cell but those with *reused* do the held blocks change, except that zeroing writes zeroes into them. A scene
whose pin is not granted says so; what is left of it (a lease, or just an open file) is what the operation meets.
How the holder gives way: it unpins; under `break` it also gives up its lease; a survivor of a crash exits.
)";

std::string text_of(const Cell& cell) {
  const Outcome result = outcome(cell);
  std::string text;
  if (result.waits.short_timeout) text += "*short,* ";
  if (result.waits.policy) text += "*waits,* ";
  if (result.error != 0) {
    text += result.error == ETXTBSY ? "ETXTBSY" : "EDEADLK";
  } else {
    constexpr std::array words{"in place", "done", "done, limbo", "done, kept", "done, reused"};
    text += words[static_cast<std::size_t>(result.blocks)];
  }
  constexpr std::array told{"", "; told: asked", "; told: changed", "; told: revoked"};
  return text + told[static_cast<std::size_t>(result.told)];
}

// One text where all of them agree.
std::string text_of(Cell cell, std::span<const Action> actions) {
  std::string all;
  for (const Action action : actions) {
    cell.action = action;
    const std::string text = text_of(cell);
    if (all.empty()) {
      all = text;
    } else if (all != text) {
      all += " / " + text;
    }
  }
  return all;
}

std::string row_of(Rule rule, Ending ending, Longterm longterm, Scene scene) {
  const Cell cell{rule, ending, longterm, scene, Action::truncate};
  constexpr std::array detaches{Action::truncate, Action::o_trunc, Action::punch};
  std::string row = text_of(cell, detaches);
  for (const Action action : {Action::zero, Action::rename, Action::unlink}) {
    row += " | " + text_of(cell, std::array{action});
  }
  return row;
}

std::string pin_error(Scene scene, Longterm longterm) {
  const int error = holding(scene, longterm).pin_error;
  if (error == 0) return "";
  return error == EPERM ? " (the pin: EPERM)" : " (the pin: EOPNOTSUPP)";
}

std::string table_of(Rule rule, Ending ending) {
  std::string table =
      "\n| the holder has | `longterm=` | truncate, O_TRUNC, punch | zero | rename over | unlink, "
      "close |\n|---|---|---|---|---|---|\n";
  for (const Scene scene : kScenes) {
    // Neighbours that agree share a row.
    for (std::size_t i = 0; i < kLongterms.size();) {
      const std::string row = row_of(rule, ending, kLongterms[i], scene);
      const std::string refused = pin_error(scene, kLongterms[i]);
      std::string words;
      do {
        words += (words.empty() ? "" : ", ") + std::string(name_of(kLongterms[i]));
        ++i;
      } while (i < kLongterms.size() && row == row_of(rule, ending, kLongterms[i], scene) &&
               refused == pin_error(scene, kLongterms[i]));
      table += "| " + (name_of(scene) + refused) + " | " + words + " | " + row + " |\n";
    }
  }
  return table;
}

}  // namespace

std::string cells_document() {
  std::string text = kIntroduction;
  for (const Rule rule : kRules) {
    const bool waits = rule == Rule::wait || rule == Rule::breaks;
    for (const Ending ending : kEndings) {
      if (!waits && ending != Ending::refuse) continue;
      text += "\n## `" + std::string(name_of(rule)) + "`";
      if (waits && ending == Ending::gives_way) text += ", and the holder gives way";
      if (waits && ending != Ending::gives_way) text += ", `" + std::string(name_of(ending)) + "`";
      text += "\n" + table_of(rule, ending);
    }
  }
  return text;
}

}  // namespace daxfs::test
