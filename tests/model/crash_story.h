// A story: a few operations on a filesystem over a recording medium, and what a crash at any moment
// may leave of them.
//
// The oracle: after a crash and a mount, operations that had returned are wholly there, those that
// had not begun are not, and the one in flight is there wholly or not at all. (Only the bytes of an
// overwrite in place may be old and new side by side.) And the volume passes its check, with every
// block that no file has in the free space.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/model/mounted.h"
#include "tests/model/path_calls.h"
#include "tests/model/tree_state.h"
#include "tests/unit/recording_medium.h"

namespace daxfs::testing {

class CrashStory {
 public:
  enum class InFlight : std::uint8_t {
    atomic,
    in_place,  // content may be mixed
  };
  using Action = std::function<void(PathCalls&)>;

  CrashStory();

  // What is there before; not explored. Call it first.
  void prepare(const Action& action);
  void operation(const std::string& name, const Action& action,
                 InFlight in_flight = InFlight::atomic);

  // Visits crash states until one is wrong; says how it came about. `states` counts them.
  std::optional<std::string> explore(const RecordingMedium::Options& options, std::size_t& states);

 private:
  struct Operation {
    std::string name;
    InFlight in_flight;
    std::size_t begin;  // calls of the medium before, and after
    std::size_t end;
    TreeState after;
  };

  void begin();
  // What is wrong with the state of an image, of which `done` calls were made.
  std::optional<std::string> judge(Medium& image, std::size_t done) const;
  std::optional<std::string> judge_tree(const TreeState& found, std::size_t done) const;

  RecordingMedium medium_;
  std::unique_ptr<Mounted> mounted_;
  std::unique_ptr<PathCalls> calls_;
  bool begun_ = false;
  TreeState start_;
  std::vector<Operation> operations_;
};

}  // namespace daxfs::testing
