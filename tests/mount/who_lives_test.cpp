// A daemon dies, and its holder lives on: whoever of them, of the next daemon and of fsck is in
// another namespace, nobody gets the holder's blocks.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::uint64_t kLength = 2 << 20;
constexpr const char* kOptions = "pin_policy=defer,exit_grace=0";

enum class Role { daemon, fsck, remount, holder, child };
enum class Space { same, pid, pid_without_proc, time, mount };

struct Cell {
  Role role;
  Space space;
  bool locked;  // mapped by libdaxfs, which locks the pin; else by the holder itself
};

const char* name_of(Role role) {
  constexpr std::array kNames{"daemon", "fsck", "remount", "holder", "holder's child"};
  return kNames[static_cast<std::size_t>(role)];
}
const char* name_of(Space space) {
  constexpr std::array kNames{"the same namespaces", "another pid namespace",
                              "another pid namespace, without its /proc", "another time namespace",
                              "another mount namespace"};
  return kNames[static_cast<std::size_t>(space)];
}

// What runs a command there.
std::vector<std::string> through(Space space) {
  std::vector<std::string> words{"/usr/bin/unshare", "--fork", "--kill-child"};
  const auto with = [&](std::initializer_list<const char*> more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  switch (space) {
    case Space::same:
      return {};
    case Space::pid:
      return with({"--pid", "--mount", "--propagation", "unchanged", "--mount-proc"});
    case Space::pid_without_proc:
      return with({"--pid"});
    case Space::time:
      return with({"--time", "--boottime", "100000"});
    case Space::mount:
      return with({"--mount", "--propagation", "unchanged"});
  }
  return {};
}

bool write_text(const char* path, const char* text) {
  const UniqueFd fd(open(path, O_WRONLY));
  return write(fd.get(), text, strlen(text)) > 0;
}

// The rest of this forked process happens there.
void enter(Space space) {
  if (space == Space::same) return;
  if (space == Space::mount) {
    if (unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr))
      _exit(1);
    return;
  }
  const bool time = space == Space::time;
  if (unshare(time ? CLONE_NEWTIME : CLONE_NEWPID) != 0) _exit(1);
  if (time && !write_text("/proc/self/timens_offsets", "boottime 100000 0")) _exit(1);
  const pid_t child = fork();
  if (child != 0) {
    waitpid(child, nullptr, 0);
    _exit(0);
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
}

// Maps a pin as a program without libdaxfs does.
char* map_by_hand(int fd, std::uint64_t pin, const std::string& pool) {
  daxfs_extent extent{};
  if (daxfs_pin_extents(fd, pin, &extent, 1) != 1) return nullptr;
  const UniqueFd medium(open(pool.c_str(), O_RDWR | O_CLOEXEC));
  void* const view = mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_SHARED, medium.get(),
                          static_cast<off_t>(extent.pool_offset));
  return view == MAP_FAILED ? nullptr : static_cast<char*>(view);
}

// A mount whose daemons run anywhere. What they mount in another mount namespace is seen here.
class Place {
 public:
  Place() : pool_(make_pool(dir_.path("pool"), "16M+")) {
    const std::string share = dir_.path("share");
    REQUIRE(mkdir(share.c_str(), 0755) == 0);
    REQUIRE(::mount(share.c_str(), share.c_str(), nullptr, MS_BIND, nullptr) == 0);
    REQUIRE(::mount(nullptr, share.c_str(), nullptr, MS_SHARED, nullptr) == 0);
    REQUIRE(mkdir(path().c_str(), 0755) == 0);
  }
  ~Place() {
    daemon_.reset();
    umount2(path().c_str(), MNT_DETACH);
    umount2(dir_.path("share").c_str(), MNT_DETACH);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  const std::string& pool() const { return pool_; }
  std::string path() const { return dir_.path("share/mnt"); }
  std::string path(const std::string& name) const { return path() + "/" + name; }

  void mount(Space space) {
    std::vector<std::string> command = through(space);
    command.insert(command.end(), {tool("daxfs"), pool(), path(), "-f", "-o", kOptions});
    daemon_.emplace(command);
    const bool ready = daemon_->says(" on " + path() + ":");
    INFO(daemon_->out() << daemon_->err());
    REQUIRE(ready);
  }
  // With what has started it, --kill-child.
  void kill_daemon() {
    daemon_->signal(SIGKILL);
    daemon_->finish();
    REQUIRE(umount2(path().c_str(), MNT_DETACH) == 0);
  }
  void unmount() {
    REQUIRE(eventually([&] { return umount2(path().c_str(), 0) == 0; }));
    CHECK(daemon_->finish(kPatience).code == 0);
  }
  std::uint64_t limbo() const { return ask("status")["limbo"]; }
  Json ask(const char* what) const {
    return Json::parse(run({tool("daxfsctl"), "--json", what, path()}).out);
  }

 private:
  TempDir dir_;
  std::string pool_;
  std::optional<Process> daemon_;
};

// Pins and maps a file, fills it with its own bytes, and tells when it is asked whether they still
// are.
class Holder {
 public:
  Holder(const Place& place, const Cell& cell) {
    REQUIRE(pipe2(questions_, O_CLOEXEC) == 0);
    REQUIRE(pipe2(answers_, O_CLOEXEC) == 0);
    const pid_t process = fork();
    REQUIRE(process >= 0);
    if (process == 0) be(place, cell);
    close(questions_[0]);
    close(answers_[1]);
    first_ = process;
    REQUIRE(answer() == 'y');
  }
  ~Holder() { end(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  bool is_intact() { return write(questions_[1], "?", 1) == 1 && answer() == 'y'; }
  void end() {
    if (first_ == 0) return;
    close(questions_[1]);
    answer();  // the end of it
    close(answers_[0]);
    waitpid(first_, nullptr, 0);
    first_ = 0;
  }

 private:
  char answer() {
    char byte = 0;
    return read(answers_[0], &byte, 1) == 1 ? byte : '\0';
  }

  [[noreturn]] void be(const Place& place, const Cell& cell) {
    alarm(120);  // whatever becomes of the test
    close(questions_[1]);
    close(answers_[0]);
    if (cell.role == Role::holder) enter(cell.space);
    const int fd = open(place.path("f").c_str(), O_RDWR | O_CREAT, 0600);
    std::uint64_t pin = 0;
    if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0) _exit(1);
    std::size_t length = 0;
    char* const view = cell.locked ? static_cast<char*>(daxfs_map(fd, pin, &length))
                                   : map_by_hand(fd, pin, place.pool());
    if (view == nullptr) _exit(2);
    std::fill_n(view, kLength, 'h');
    if (cell.role == Role::child) {
      // Its parent, which has taken the pin, ends.
      if (fork() != 0) _exit(0);
      enter(cell.space);
      alarm(120);
    }
    char byte = 'y';
    do {
      const auto foreign = std::count_if(view, view + kLength, [](char c) { return c != 'h'; });
      byte = foreign == 0 ? 'y' : 'n';
    } while (write(answers_[1], &byte, 1) == 1 && read(questions_[0], &byte, 1) == 1);
    _exit(0);
  }

  int questions_[2];
  int answers_[2];
  pid_t first_ = 0;
};

// The file loses its blocks, and another one takes all the space that there is.
void take_everything(const Place& place) {
  REQUIRE(truncate(place.path("f").c_str(), 0) == 0);
  const UniqueFd other(open(place.path("other").c_str(), O_RDWR | O_CREAT, 0600));
  const std::string piece(1 << 20, 'x');
  while (write(other.get(), piece.data(), piece.size()) > 0) {
  }
}

void try_out(const Cell& cell) {
  INFO(name_of(cell.role) << " in " << name_of(cell.space) << ", "
                          << (cell.locked ? "mapped by libdaxfs" : "mapped by hand"));
  Place place;
  const auto of = [&](Role role) { return cell.role == role ? cell.space : Space::same; };
  place.mount(of(Role::daemon));
  Holder holder(place, cell);
  // Nobody says of a holder that it has ended because the daemon cannot see it.
  if (cell.role != Role::child) CHECK(place.ask("pins").at(0)["kept_by"] == nullptr);
  place.kill_daemon();
  if (cell.role == Role::fsck) {
    std::vector<std::string> command = through(cell.space);
    command.insert(command.end(), {tool("fsck.daxfs"), "-y", place.pool()});
    CHECK(run(command).code <= 1);
  }
  place.mount(of(Role::remount));
  if (cell.role != Role::child) CHECK(place.ask("pins").at(0)["kept_by"] == nullptr);
  take_everything(place);
  CHECK(holder.is_intact());
  CHECK(place.limbo() == kLength);
  holder.end();
  // Else, who cannot be seen keeps its blocks until somebody releases them.
  if (cell.locked) CHECK(eventually([&] { return place.limbo() == 0; }));
  place.unmount();
}

void need_namespaces() {
  need_mounts();
  if (geteuid() != 0) skip_here("only root may make namespaces");
  for (const Space space : {Space::pid, Space::time, Space::mount}) {
    std::vector<std::string> command = through(space);
    command.emplace_back("/bin/true");
    if (run(command).code != 0) skip_here(std::string(name_of(space)) + " cannot be made here");
  }
}

constexpr std::array kOthers{Space::pid, Space::pid_without_proc, Space::time, Space::mount};

}  // namespace

TEST_CASE("a living holder keeps its blocks, whoever is in another namespace") {
  need_namespaces();
  try_out({Role::daemon, Space::same, true});
  for (const Role role : {Role::daemon, Role::fsck, Role::remount, Role::holder, Role::child})
    for (const Space space : kOthers) try_out({role, space, true});
  try_out({Role::child, Space::same, true});
}

TEST_CASE("so does one that has mapped the pool by itself") {
  need_namespaces();
  for (const Role role : {Role::daemon, Role::fsck, Role::remount, Role::holder})
    for (const Space space : kOthers) try_out({role, space, false});
}

}  // namespace daxfs::test
