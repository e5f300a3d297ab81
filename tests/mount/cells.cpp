#include "tests/mount/cells.h"

#include <cerrno>

namespace daxfs::test {
namespace {

// Where the blocks go when nobody stands in the way, or nobody any more. A file that lost its last
// name keeps them for as long as somebody has it open.
Blocks given_back(Action action, const Holding& held) {
  return action == Action::rename && held.keeps_it_open ? Blocks::with_holder : Blocks::freed;
}

// The same while they are pinned.
Blocks detached_while_pinned(const Cell& cell, const Holding& held, bool ignore) {
  if (cell.action == Action::rename && held.keeps_it_open) return Blocks::with_holder;
  return ignore ? Blocks::freed_pinned : Blocks::limbo;
}

Outcome at_last_close(const Cell& cell, const Holding& held) {
  // A pin keeps its file open, so the last close comes after it; except after a crash, where nobody
  // is left to refuse to.
  if (held.keeps_it_open) return {.blocks = Blocks::with_holder};
  if (!held.pin) return {.blocks = Blocks::freed};
  return {.blocks = cell.rule == Rule::ignore ? Blocks::freed_pinned : Blocks::limbo};
}

Outcome refused(Waits waits, Told told = Told::nothing) {
  return {.error = ETXTBSY, .waits = waits, .told = told, .blocks = Blocks::untouched};
}

// A lease without a pin: a layout that may change, once its holder has been told.
Outcome meets_lease(const Cell& cell, const Holding& held) {
  if (cell.rule == Rule::breaks && held.own) return {.error = EDEADLK};
  Outcome result{.told = Told::changed, .blocks = given_back(cell.action, held)};
  if (cell.rule == Rule::breaks) {
    result.waits.policy = true;
    // Whoever lets the time pass loses the lease, and nothing else: on_timeout is about pins.
    result.told = cell.ending == Ending::gives_way ? Told::asked : Told::revoked;
  }
  return result;
}

// Long-term pins are in the way, or short ones past their time (which were waited for).
Outcome meets_pins(const Cell& cell, const Holding& held, Waits waits) {
  const Told if_done = held.lease ? Told::changed : Told::nothing;
  const Outcome limbo{
      .waits = waits, .told = if_done, .blocks = detached_while_pinned(cell, held, false)};
  switch (cell.rule) {
    case Rule::refuse:
      return refused(waits);
    case Rule::defer:
      return limbo;
    case Rule::ignore:
      return {.waits = waits, .told = if_done, .blocks = detached_while_pinned(cell, held, true)};
    case Rule::wait:
    case Rule::breaks:
      break;
  }
  if (held.own) return {.error = EDEADLK};
  waits.policy = true;
  const bool asked = cell.rule == Rule::breaks && held.lease;
  switch (cell.ending) {
    case Ending::refuse:
      return refused(waits, asked ? Told::asked : Told::nothing);
    case Ending::defer: {
      Outcome result = limbo;
      result.waits = waits;
      if (asked) result.told = Told::revoked;
      return result;
    }
    case Ending::gives_way:
      return {.waits = waits,
              .told = asked ? Told::asked : if_done,
              .blocks = given_back(cell.action, held)};
  }
  return {};
}

}  // namespace

Holding holding(Scene scene, Longterm longterm) {
  Holding held;
  held.keeps_it_open = scene != Scene::none && scene != Scene::crash;
  held.own = scene == Scene::own || scene == Scene::own_lease || scene == Scene::own_short;
  held.exclusive = scene == Scene::exclusive;
  held.lease = scene == Scene::leased || scene == Scene::lease_only || scene == Scene::own ||
               scene == Scene::own_lease || held.exclusive;
  switch (scene) {
    case Scene::none:
    case Scene::lease_only:
    case Scene::own_lease:
      break;
    case Scene::short_pin:
    case Scene::own_short:
      held.pin = held.short_term = true;
      break;
    case Scene::crash:
      held.pin = true;  // longterm= is asked when a pin is taken
      break;
    case Scene::long_pin:
    case Scene::leased:
    case Scene::exclusive:
    case Scene::own:
      if (longterm == Longterm::forbid) held.pin_error = EOPNOTSUPP;
      if (longterm == Longterm::lease && !held.lease) held.pin_error = EPERM;
      held.pin = held.pin_error == 0;
      break;
  }
  return held;
}

Outcome outcome(const Cell& cell) {
  const Holding held = holding(cell.scene, cell.longterm);
  if (cell.action == Action::zero) return {};
  if (cell.action == Action::unlink) return at_last_close(cell, held);
  if (held.exclusive && cell.rule != Rule::ignore) return refused({});
  if (held.pin && held.short_term) {
    if (held.own) return {.error = EDEADLK};
    const Waits waits{.short_timeout = true};
    if (cell.ending == Ending::gives_way) {
      return {.waits = waits, .blocks = given_back(cell.action, held)};
    }
    return meets_pins(cell, held, waits);
  }
  if (held.pin) return meets_pins(cell, held, {});
  if (held.lease) return meets_lease(cell, held);
  return {.blocks = given_back(cell.action, held)};
}

Effect effect(Action action) {
  switch (action) {
    case Action::truncate:
      return {.size = 1, .first = 1, .count = kCellBlocks - 1};
    case Action::o_trunc:
      return {.size = 0, .first = 0, .count = kCellBlocks};
    case Action::punch:
      return {.size = kCellBlocks, .first = 1, .count = kCellBlocks - 1};
    case Action::zero:
      return {.size = kCellBlocks, .first = 1, .count = 0};
    case Action::rename:
    case Action::unlink:
      return {.size = 0, .first = 0, .count = kCellBlocks};
  }
  return {};
}

const char* name_of(Rule rule) {
  constexpr std::array names{"refuse", "defer", "wait", "break", "ignore"};
  return names[static_cast<std::size_t>(rule)];
}

const char* name_of(Ending ending) {
  constexpr std::array names{"on_timeout=refuse", "on_timeout=defer", "the holder gives way"};
  return names[static_cast<std::size_t>(ending)];
}

const char* name_of(Longterm longterm) {
  constexpr std::array names{"allow", "lease", "forbid"};
  return names[static_cast<std::size_t>(longterm)];
}

const char* name_of(Scene scene) {
  constexpr std::array names{"nothing",
                             "short-term pin",
                             "long-term pin",
                             "lease and long-term pin",
                             "lease alone",
                             "exclusive lease and long-term pin",
                             "own lease and long-term pin",
                             "own lease alone",
                             "own short-term pin",
                             "pin from before a crash"};
  return names[static_cast<std::size_t>(scene)];
}

const char* name_of(Action action) {
  constexpr std::array names{"truncate", "O_TRUNC",     "punch",
                             "zero",     "rename over", "unlink, close"};
  return names[static_cast<std::size_t>(action)];
}

std::string name_of(const Cell& cell) {
  return std::string(name_of(cell.rule)) + ", " + name_of(cell.ending) +
         ", longterm=" + name_of(cell.longterm) + ": " + name_of(cell.scene) + ", " +
         name_of(cell.action);
}

}  // namespace daxfs::test
