// Every cell of docs/cells.md on a real mount: the answer, whether it waited, what the holder was
// told, the file, the free space and limbo to the block, and what is in the held blocks.
#include "tests/mount/cells.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

using Clock = std::chrono::steady_clock;

// How long what must wait is made to wait, and how long what must not would take if it did.
constexpr int kShortMs = 25;
constexpr int kWaitMs = 25;
constexpr Seconds kTooLong{15};
constexpr const char* kPatient = "short_timeout=20s,wait_timeout=20s,break_timeout=20s";

std::string mount_options(Rule rule, Ending ending, Longterm longterm) {
  std::string options = std::string("pin_policy=") + name_of(rule) +
                        ",longterm=" + name_of(longterm) + "," + kPatient;
  if (ending == Ending::defer) options += ",on_timeout=defer";
  if (rule == Rule::ignore) options += ",unsafe_demo";
  return options;
}

// Runs in a child: plain calls, and an errno.
int perform(Action action, const std::string& file, const std::string& source) {
  switch (action) {
    case Action::truncate:
      return shrink(file, kBlock);
    case Action::o_trunc: {
      const daxfs::UniqueFd fd(open(file.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
      return fd ? 0 : errno;
    }
    case Action::punch:
      return punch_blocks(file, 1, kCellBlocks - 1);
    case Action::zero: {
      const daxfs::UniqueFd fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
      return error_of(fallocate(fd.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, kBlock,
                                (kCellBlocks - 1) * kBlock));
    }
    case Action::rename:
      return error_of(rename(source.c_str(), file.c_str()));
    case Action::unlink: {
      const daxfs::UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
      return fd ? error_of(unlink(file.c_str())) : errno;
    }
  }
  return ENOSYS;
}

struct Files {
  Files(const Mount& mount, Action action) {
    const auto n = std::to_string(static_cast<int>(action));
    file = mount.path("f" + n);
    source = mount.path("s" + n);
  }
  void make() const {
    write_file(file, pattern(kCellBlocks * kBlock, 1));
    write_file(source, pattern(kBlock, 2));
  }
  void remove() const {
    unlink(file.c_str());
    unlink(source.c_str());
  }
  std::string file, source;
};

// The holder of a cell. Unless it is a survivor, this process.
class CellHolder {
 public:
  // Precondition: the mount is in force that the cell is about, except for survivors, who need one
  // that grants their pin.
  CellHolder(const Cell& cell, const std::string& file) : cell_(cell) {
    held_ = holding(cell.scene, cell.longterm);
    constexpr std::uint64_t offset = kHeldFirst * kBlock;
    constexpr std::uint64_t length = kHeldCount * kBlock;
    if (cell.scene == Scene::crash) {
      survivor_ = std::make_unique<Holder>([&] { return pin_and_keep(file, offset, length); });
      REQUIRE(survivor_->result() == 0);
      return;
    }
    if (cell.scene == Scene::none) return;
    fd_ = open_file(file, O_RDWR);
    if (held_.lease) {
      const std::uint32_t flags = held_.exclusive ? DAXFS_LEASE_EXCLUSIVE : 0;
      REQUIRE(daxfs_lease(fd_.get(), offset, length, flags, &lease_) == 0);
    }
    if (!held_.pin && held_.pin_error == 0) return;
    const std::uint32_t flags = held_.short_term ? DAXFS_PIN_SHORT : 0;
    CHECK(error_of(daxfs_pin(fd_.get(), offset, length, flags, &pin_)) == held_.pin_error);
  }

  const Holding& held() const { return held_; }
  pid_t pid() const { return survivor_ ? survivor_->pid() : getpid(); }

  // Lets go of what the operation waits for.
  void give_way() {
    if (survivor_) return survivor_->die();
    if (held_.lease && cell_.rule == Rule::breaks) {
      CHECK(event_within(Seconds(10)));
      CHECK(next_type() == DAXFS_EVENT_BREAK);
      was_asked_ = true;
    }
    if (held_.pin) {
      CHECK(daxfs_unpin(fd_.get(), pin_) == 0);
      pinned_ = false;
    }
    if (held_.lease && cell_.rule == Rule::breaks) {
      CHECK(daxfs_unlease(fd_.get(), lease_) == 0);
    }
  }

  // All that it was told, once the operation has been answered.
  Told told(pid_t requester) {
    Told result = was_asked_ ? Told::asked : Told::nothing;
    if (!fd_) return result;
    const bool ready = event_within(Seconds(0));
    CHECK(ready == has_event(requester, result));
    return result;
  }

  void end() {
    if (survivor_) survivor_->die();
    survivor_.reset();
    if (held_.pin && pinned_ && fd_) CHECK(daxfs_unpin(fd_.get(), pin_) == 0);
    fd_ = {};
  }

 private:
  bool event_within(Seconds limit) const {
    pollfd news{fd_.get(), POLLPRI, 0};
    const auto ms = std::chrono::milliseconds(limit).count();
    return poll(&news, 1, static_cast<int>(ms)) == 1 && (news.revents & POLLPRI) != 0;
  }
  std::uint32_t next_type() const {
    daxfs_event event{};
    return daxfs_next_event(fd_.get(), &event) == 0 ? event.type : 0;
  }
  // Reads all events; true if there were any.
  bool has_event(pid_t requester, Told& last) {
    bool any = false;
    daxfs_event event{};
    while (daxfs_next_event(fd_.get(), &event) == 0) {
      any = true;
      CHECK(event.lease_id == lease_);
      CHECK(event.offset == kHeldFirst * kBlock);
      CHECK(event.length == kHeldCount * kBlock);
      CHECK(event.pid == requester);
      const std::uint32_t reason = cell_.action == Action::punch    ? DAXFS_REASON_PUNCH
                                   : cell_.action == Action::rename ? DAXFS_REASON_RENAME
                                                                    : DAXFS_REASON_TRUNCATE;
      CHECK(event.reason == reason);
      CHECK((event.deadline_ns != 0) == (event.type == DAXFS_EVENT_BREAK));
      last = event.type == DAXFS_EVENT_BREAK     ? Told::asked
             : event.type == DAXFS_EVENT_CHANGED ? Told::changed
                                                 : Told::revoked;
    }
    CHECK(errno == EAGAIN);
    return any;
  }

  Cell cell_;
  Holding held_;
  daxfs::UniqueFd fd_;
  std::uint64_t pin_ = 0, lease_ = 0;
  bool pinned_ = true, was_asked_ = false;
  std::unique_ptr<Holder> survivor_;
};

std::vector<std::uint64_t> held_places(const std::string& file) {
  const daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  std::vector<std::uint64_t> places;
  for (const daxfs_extent& extent : extents_of(fd.get())) {
    for (std::uint64_t at = 0; at < extent.length; at += kBlock) {
      places.push_back(extent.pool_offset + at);
    }
  }
  REQUIRE(places.size() == kCellBlocks);
  return {places.begin() + kHeldFirst, places.begin() + kHeldFirst + kHeldCount};
}

class Cells {
 public:
  Cells() {
    // The root's block of names comes with the first name and goes with the last.
    write_file(mount_.path("stays"), "");
    for (const Action action : kActions) Files(mount_, action).make();
    for (const Action action : kActions) Files(mount_, action).remove();
    empty_ = live_status(mount_)["free"];
    mount_.unmount();
  }
  ~Cells() { mount_.mount(); }  // for its check at the end

  void run(Rule rule, Ending ending, Longterm longterm) {
    mount_.mount("longterm=allow");
    std::vector<std::unique_ptr<CellHolder>> survivors;
    for (const Action action : kActions) {
      const Files files(mount_, action);
      files.make();
      survivors.push_back(std::make_unique<CellHolder>(
          Cell{rule, ending, longterm, Scene::crash, action}, files.file));
    }
    mount_.kill_daemon();
    mount_.mount(mount_options(rule, ending, longterm));
    const std::uint64_t full = kActions.size() * (kCellBlocks + 1) * kBlock;
    CHECK(live_status(mount_)["free"] == empty_ - full);
    for (std::size_t i = 0; i < kActions.size(); ++i) {
      const std::uint64_t others = (kActions.size() - 1 - i) * (kCellBlocks + 1) * kBlock;
      check({rule, ending, longterm, Scene::crash, kActions[i]}, *survivors[i], empty_ - others);
    }
    for (const Scene scene : kScenes) {
      if (scene == Scene::crash) continue;
      for (const Action action : kActions) {
        const Cell cell{rule, ending, longterm, scene, action};
        const Files files(mount_, action);
        files.make();
        CellHolder holder(cell, files.file);
        check(cell, holder, empty_);
      }
    }
    mount_.unmount();
  }

  std::size_t checked() const { return checked_; }

 private:
  // `empty`: what is free when this cell's files have gone.
  void check(const Cell& cell, CellHolder& holder, std::uint64_t empty) {
    INFO(name_of(cell));
    const Outcome expected = outcome(cell);
    const Files files(mount_, cell.action);
    const auto places = held_places(files.file);
    const Snapshot before(files.file);
    const Snapshot source(files.source);
    const std::uint64_t full = empty - (kCellBlocks + 1) * kBlock;
    const std::uint64_t pinned = holder.held().pin ? kHeldCount * kBlock : 0;
    CHECK(space_settles(mount_, full, 0));
    if (cell.scene == Scene::crash) check_listed(holder.pid());
    if (expected.error != 0) next_tick();

    const bool gives_way = expected.waits.any() && cell.ending == Ending::gives_way;
    const bool waits = expected.waits.any() && !gives_way;
    if (waits) {
      const std::string ms = std::to_string(kWaitMs) + "ms";
      REQUIRE(switch_policy(mount_, "short_timeout=" + std::to_string(kShortMs) +
                                        "ms,wait_timeout=" + ms + ",break_timeout=" + ms) == 0);
    }
    const auto begin = Clock::now();
    int error = 0;
    pid_t requester = getpid();
    if (holder.held().own) {
      error = perform(cell.action, files.file, files.source);
    } else {
      Attempt attempt([&] { return perform(cell.action, files.file, files.source); });
      requester = attempt.pid();
      if (gives_way) {
        CHECK(waiting_becomes(mount_, 1));
        holder.give_way();
      }
      error = attempt.finish();
    }
    const auto took = Clock::now() - begin;
    if (waits) {
      REQUIRE(switch_policy(mount_, kPatient) == 0);
      CHECK(took >= std::chrono::milliseconds((expected.waits.short_timeout ? kShortMs : 0) +
                                              (expected.waits.policy ? kWaitMs : 0)));
    }
    CHECK(took < kTooLong);
    CHECK(error == expected.error);
    CHECK(holder.told(requester) == expected.told);
    check_space(cell, expected.blocks, full, gives_way ? 0 : pinned);
    check_file(cell, expected, before, source);
    check_held_bytes(cell, expected, places);

    holder.end();
    files.remove();
    CHECK(space_settles(mount_, empty, 0));
    ++checked_;
  }

  void check_listed(pid_t pid) const {
    bool found = false;
    for (const Json& pin : live_list(mount_, DAXFS_QUERY_PINS)) {
      if (pin["pid"] != pid) continue;
      found = true;
      CHECK(pin["kind"] == "long");
      CHECK(pin["offset"] == kHeldFirst * kBlock);
      CHECK(pin["length"] == kHeldCount * kBlock);
    }
    CHECK(found);
  }

  void check_space(const Cell& cell, Blocks blocks, std::uint64_t full,
                   std::uint64_t pinned) const {
    const std::uint64_t detached = effect(cell.action).count * kBlock;
    // The replaced file's blocks against the replacing one's: that stays, under another name.
    switch (blocks) {
      case Blocks::untouched:
      case Blocks::with_holder:
        CHECK(space_settles(mount_, full, 0));
        break;
      case Blocks::freed:
      case Blocks::freed_pinned:
        CHECK(space_settles(mount_, full + detached, 0));
        break;
      case Blocks::limbo:
        CHECK(space_settles(mount_, full + detached - pinned, pinned));
        break;
    }
  }

  void check_file(const Cell& cell, const Outcome& expected, const Snapshot& before,
                  const Snapshot& source) const {
    const Files files(mount_, cell.action);
    if (expected.error != 0) {
      CHECK(Snapshot(files.file) == before);
      CHECK(Snapshot(files.source) == source);
      return;
    }
    if (cell.action == Action::unlink) {
      CHECK(error_of(access(files.file.c_str(), F_OK)) == ENOENT);
      return;
    }
    if (cell.action == Action::rename) {
      CHECK(error_of(access(files.source.c_str(), F_OK)) == ENOENT);
      CHECK(read_file(files.file) == source.data);
      return;
    }
    const Effect does = effect(cell.action);
    const std::size_t size = does.size * kBlock;
    const bool zeroed = cell.action == Action::zero;
    std::string content = before.data.substr(0, does.first * kBlock);
    content.resize(size, '\0');
    CHECK(difference(read_file(files.file), content) == "");
    const struct stat now = status_of(files.file);
    CHECK(static_cast<std::size_t>(now.st_blocks) * 512 ==
          (zeroed ? kCellBlocks : does.first) * kBlock);
    if (!zeroed && does.first > 0) CHECK(data_parts(files.file) == Parts{{0, does.first * kBlock}});
  }

  void check_held_bytes(const Cell& cell, const Outcome& expected,
                        const std::vector<std::uint64_t>& places) const {
    // What was not pinned, or was given up, may be anybody's.
    if (expected.blocks == Blocks::freed || expected.blocks == Blocks::freed_pinned) return;
    const std::string content = cell.action == Action::zero
                                    ? std::string(kCellBlocks * kBlock, '\0')
                                    : pattern(kCellBlocks * kBlock, 1);
    // By a mapping: a device has no read(2).
    const daxfs::UniqueFd pool = open_file(mount_.pool(), O_RDONLY);
    for (std::size_t i = 0; i < kHeldCount; ++i) {
      void* const block =
          mmap(nullptr, kBlock, PROT_READ, MAP_SHARED, pool.get(), static_cast<off_t>(places[i]));
      REQUIRE(block != MAP_FAILED);
      const std::string bytes(static_cast<const char*>(block), kBlock);
      munmap(block, kBlock);
      CHECK(difference(bytes, content.substr((kHeldFirst + i) * kBlock, kBlock)) == "");
    }
  }

  Mount mount_;
  std::uint64_t empty_ = 0;
  std::size_t checked_ = 0;
};

void check_cells(Rule rule) {
  need_mounts();
  Cells cells;
  const bool waits = rule == Rule::wait || rule == Rule::breaks;
  for (const Ending ending : kEndings) {
    if (!waits && ending != Ending::refuse) continue;
    for (const Longterm longterm : kLongterms) cells.run(rule, ending, longterm);
  }
  const std::size_t endings = waits ? kEndings.size() : 1;
  CHECK(cells.checked() == endings * kLongterms.size() * kScenes.size() * kActions.size());
}

const char* const kDocument = DAXFS_SOURCE_DIR "/docs/cells.md";

}  // namespace

TEST_CASE("docs/cells.md says what is checked") {
  const std::string text = cells_document();
  if (std::getenv("DAXFS_WRITE_CELLS") != nullptr) {
    std::ofstream(kDocument) << text;
  }
  std::ifstream file(kDocument);
  const std::string written{std::istreambuf_iterator<char>(file), {}};
  INFO("DAXFS_WRITE_CELLS=1 writes it anew");
  CHECK(difference(written, text) == "");
}

TEST_CASE("every cell of pin_policy=refuse") { check_cells(Rule::refuse); }
TEST_CASE("every cell of pin_policy=defer") { check_cells(Rule::defer); }
TEST_CASE("every cell of pin_policy=wait") { check_cells(Rule::wait); }
TEST_CASE("every cell of pin_policy=break") { check_cells(Rule::breaks); }
TEST_CASE("every cell of pin_policy=ignore") { check_cells(Rule::ignore); }
