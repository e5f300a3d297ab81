// What every policy answers, cell by cell: the specification, written from the promises of
// docs/gate.md and from nothing in the program. docs/cells.md shows it, cells_test.cpp checks it on
// real mounts.
//
// A cell: a file of six blocks, of which the third and fourth are held in some way (Scene), meets
// an operation by another open file description or by path, on a mount with some policy.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace daxfs::test {

inline constexpr std::size_t kCellBlocks = 6;
inline constexpr std::size_t kHeldFirst = 2;
inline constexpr std::size_t kHeldCount = 2;

enum class Rule : std::uint8_t { refuse, defer, wait, breaks, ignore };
// How a request stops waiting, where it waits.
enum class Ending : std::uint8_t { refuse, defer, gives_way };  // on_timeout=..., or the holder
enum class Longterm : std::uint8_t { allow, lease, forbid };
enum class Scene : std::uint8_t {
  none,
  short_pin,
  long_pin,
  leased,      // a shared lease and a long-term pin
  lease_only,  // a shared lease
  exclusive,   // an exclusive lease and a long-term pin
  own,         // as leased, but the holder is the requester's process, by another descriptor
  own_lease,   // as lease_only, likewise
  own_short,
  crash,  // a long-term pin of a former daemon, whose process lives on
};
enum class Action : std::uint8_t { truncate, o_trunc, punch, zero, rename, unlink };

inline constexpr std::array kRules{Rule::refuse, Rule::defer, Rule::wait, Rule::breaks,
                                   Rule::ignore};
inline constexpr std::array kEndings{Ending::refuse, Ending::defer, Ending::gives_way};
inline constexpr std::array kLongterms{Longterm::allow, Longterm::lease, Longterm::forbid};
inline constexpr std::array kScenes{
    Scene::none,      Scene::short_pin, Scene::long_pin,  Scene::leased,    Scene::lease_only,
    Scene::exclusive, Scene::own,       Scene::own_lease, Scene::own_short, Scene::crash};
inline constexpr std::array kActions{Action::truncate, Action::o_trunc, Action::punch,
                                     Action::zero,     Action::rename,  Action::unlink};

struct Cell {
  Rule rule;
  Ending ending;
  Longterm longterm;
  Scene scene;
  Action action;
};

// What the holder has got.
struct Holding {
  int pin_error = 0;  // of the attempt to pin, if the scene has one
  bool pin = false;
  bool short_term = false;
  bool lease = false;
  bool exclusive = false;
  bool own = false;            // the requester's process has it, by another descriptor
  bool keeps_it_open = false;  // an open descriptor on the file
};
Holding holding(Scene scene, Longterm longterm);

// What a request waits for before it is answered.
struct Waits {
  bool short_timeout = false;
  bool policy = false;  // wait_timeout or break_timeout
  bool any() const { return short_timeout || policy; }
};
enum class Told : std::uint8_t { nothing, asked, changed, revoked };
enum class Blocks : std::uint8_t {
  untouched,     // the file has them all
  freed,         // those that were detached are free
  limbo,         // those that were pinned are in limbo, the others free
  with_holder,   // the file has lost its name; it keeps its blocks until the holder closes it
  freed_pinned,  // free although pinned
};

struct Outcome {
  int error = 0;
  Waits waits = {};
  Told told = Told::nothing;
  Blocks blocks = Blocks::untouched;
  bool operator==(const Outcome&) const = default;
};
inline bool operator==(const Waits& a, const Waits& b) {
  return a.short_timeout == b.short_timeout && a.policy == b.policy;
}
Outcome outcome(const Cell& cell);

// What an action does to the file when it is carried out, in blocks.
struct Effect {
  std::size_t size;          // of the file
  std::size_t first, count;  // detached
};
Effect effect(Action action);

const char* name_of(Rule rule);
const char* name_of(Ending ending);
const char* name_of(Longterm longterm);
const char* name_of(Scene scene);
const char* name_of(Action action);
std::string name_of(const Cell& cell);

// The text of docs/cells.md.
std::string cells_document();

}  // namespace daxfs::test
