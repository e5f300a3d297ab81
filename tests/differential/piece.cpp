#include "tests/differential/piece.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "tests/differential/steps.h"
#include "tests/differential/trees.h"

namespace daxfs::differential {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// Two directories of one piece, and away with them.
class Place {
 public:
  explicit Place(const Filesystems& filesystems) : roots(filesystems.directories()) {
    static int number = 0;
    ++number;
    for (std::string& root : roots) {
      root += "/piece" + std::to_string(number);
      if (mkdir(root.c_str(), 0777) != 0 || chmod(root.c_str(), 0777) != 0)
        throw std::runtime_error(root + ": cannot be made");
    }
  }
  ~Place() {
    for (const std::string& root : roots) remove_tree(root);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  std::array<std::string, 2> roots;
};

void do_step(World& world, const Piece& piece, std::size_t number) {
  Dice dice(piece.seed * 1'000'003 + number);
  const Step& step = some_step(dice);
  if (piece.left_out.contains(step.name)) return;
  world.about({});
  world.become(some_user(dice));
  step.act(world, dice);
}

void compare(World& world, const Place& place) {
  world.become_root();
  const std::string found =
      difference_of_trees(place.roots, [&](std::uint64_t inode) { return world.has_times(inode); });
  if (found.empty()) return;
  world.log("all is compared");
  world.differ(found);
}

std::optional<Failure> do_steps(const Place& place, Holder& holder, const Piece& piece) {
  World world(place.roots, holder, piece.cache == "writeback");
  std::size_t done = 0;
  try {
    umask(022);
    world.pins().switch_to(kPolicies[0]);
    for (const std::size_t number : piece.steps) {
      ++done;
      if (interrupted != 0) throw std::runtime_error("interrupted");
      do_step(world, piece, number);
      if (done % piece.compare_every == 0) compare(world, place);
    }
    world.become_root();
    world.settle();
    compare(world, place);
  } catch (const Difference& found) {
    world.become_root();
    const auto& lines = world.last_lines();
    return Failure{.what = found.what(), .at = done, .lines = {lines.begin(), lines.end()}};
  }
  return {};
}

}  // namespace

void interrupt() { interrupted = 1; }

std::optional<Failure> run_piece(Filesystems& filesystems, Holder& holder, const Piece& piece) {
  const Place place(filesystems);
  std::optional<Failure> failure = do_steps(place, holder, piece);
  if (failure || !piece.remounts) return failure;
  std::string found = filesystems.remount(piece.cache);
  const bool times = piece.cache != "writeback";
  if (found.empty()) found = difference_of_trees(place.roots, [&](std::uint64_t) { return times; });
  if (found.empty()) return {};
  return Failure{.what = "after fsck and a mount: " + found,
                 .at = piece.steps.size(),
                 .after_remount = true,
                 .lines = {}};
}

Piece shortened(Filesystems& filesystems, Holder& holder, Piece piece, Failure& failure,
                unsigned seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  piece.steps.resize(failure.at);
  piece.remounts = failure.after_remount;
  // Which step it was, where only the trees told.
  piece.compare_every = 20;
  if (const auto sooner = run_piece(filesystems, holder, piece)) {
    failure = *sooner;
    piece.steps.resize(failure.at);
  }
  for (std::size_t size = piece.steps.size() / 2; size > 0; size /= 2) {
    for (std::size_t at = 0; at < piece.steps.size();) {
      if (std::chrono::steady_clock::now() > end) return piece;
      Piece fewer = piece;
      const auto from = fewer.steps.begin() + static_cast<std::ptrdiff_t>(at);
      const std::size_t most = std::min(size, piece.steps.size() - at);
      fewer.steps.erase(from, from + static_cast<std::ptrdiff_t>(most));
      if (fewer.steps.size() < 100) fewer.compare_every = 1;
      auto found = run_piece(filesystems, holder, fewer);
      if (!found) {
        at += most;
        continue;
      }
      fewer.steps.resize(found->at);
      piece = fewer;
      failure = *found;
    }
  }
  return piece;
}

}  // namespace daxfs::differential
