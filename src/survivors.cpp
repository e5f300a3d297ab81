#include "src/survivors.h"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>

#include "base/background_thread.h"
#include "base/block_ranges.h"
#include "base/process_identity.h"
#include "blockmap/volume/former_doorbells.h"

namespace daxfs {
namespace {

// Not in Debian 12's glibc headers under a name that C++ can use.
int open_pidfd(pid_t process) { return static_cast<int>(syscall(SYS_pidfd_open, process, 0)); }

bool add_to(int epoll, int fd, void* what) {
  epoll_event event{.events = EPOLLIN, .data = {.ptr = what}};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

PinId last_surviving_pin(const Volume& volume) {
  PinId last;
  for (const SurvivingPin& survivor : volume.survivors()) {
    last = std::max(last, PinId{survivor.pin.pin_id});
  }
  return last;
}

Survivors::Survivors(Gate& gate, Grace& grace, Volume& volume, PinLocked locked,
                     const FindInode& find_inode, WriteUnpinned write_unpinned)
    : medium_(volume.medium()),
      gate_(gate),
      grace_(grace),
      locked_(std::move(locked)),
      write_unpinned_(std::move(write_unpinned)) {
  if (volume.survivors().empty()) return;
  for (const SurvivingPin& survivor : volume.survivors()) restore(survivor, find_inode);
  // Doorbells stay out of use under every policy: clients count there.
  std::vector<PoolRange> doorbells;
  for (const SurvivingPin& survivor : volume.survivors()) {
    if (survivor.pin.doorbell) doorbells.push_back(survivor.blocks.front());
  }
  doorbells = to_set(std::move(doorbells));
  std::vector<PoolRange> of_doorbells;
  std::vector<PoolRange> others;
  for (const PoolRange& run : volume.survivors_limbo()) split(run, doorbells, of_doorbells, others);
  gate_.detached_unasked(others);
  gate_.detached_unasked(of_doorbells, {}, PinPolicy::defer);

  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  const bool watching =
      epoll_.get() >= 0 && stop_.get() >= 0 && add_to(epoll_.get(), stop_.get(), nullptr);
  if (!watching) {
    spdlog::warn(
        "cannot watch holders of a former mount (survivors): {}; what they hold stays until the "
        "next",
        strerror(errno));
    return;
  }
  {
    const MutexLock guard(mutex_);
    std::vector<Process*> dead;
    for (const auto& process : processes_) {
      if (!begin_watching(*process)) dead.push_back(process.get());
    }
    for (Process* process : dead) gone(*process);
  }
  thread_ = background_thread("daxfs-survivors", [this] { watch(); });
}

Survivors::~Survivors() { stop(); }

void Survivors::stop() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof one) != sizeof one) {
    spdlog::error("cannot stop watching the holders of a former mount (survivors): {}",
                  strerror(errno));
  }
  thread_.join();
}

Survivors::Process& Survivors::process_of(const PinOwner& owner, PinId pin) {
  for (const auto& process : processes_) {
    // A program that writes to the pool can make two records of one pin: each keeps its blocks.
    if (process->owner == owner && !process->pins.contains(pin)) return *process;
  }
  processes_.push_back(std::make_shared<Process>());
  processes_.back()->owner = owner;
  // A number of another namespace is another process's here.
  const Judgement found = judge(owner);
  const bool ours = owner.pid_namespace == 0 || owner.pid_namespace == own_pid_namespace();
  processes_.back()->shown = found.life == Life::alive || !ours ? found.process : owner.process;
  processes_.back()->holder = gate_.new_holder();
  return *processes_.back();
}

void Survivors::restore(const SurvivingPin& survivor, const FindInode& find_inode) {
  const PinRecord& record = survivor.pin;
  Process& process = process_of(record.owner, PinId{record.pin_id});
  const std::chrono::nanoseconds since(record.since_ns);
  using Clock = std::chrono::system_clock;
  gate_.restore_pin({.id = PinId{record.pin_id},
                     .holder = process.holder,
                     .inode = record.inode,
                     .offset = record.offset,
                     .length = record.length,
                     .kind = PinKind::long_term,
                     .write = record.write,
                     .requester = {process.shown, record.owner.uid},
                     .since = Clock::time_point(std::chrono::duration_cast<Clock::duration>(since)),
                     .record = survivor.slot.position,
                     .lease = {}},
                    survivor.blocks);
  Pin pin{.inode = record.inode,
          .generation = record.generation,
          .file = find_inode(record.inode, record.generation),
          .write = record.write,
          .doorbell = record.doorbell ? survivor.blocks.front().start : PoolBlock(0),
          .copies_of = survivor.copies_of};
  if (pin.file && pin.write) pin.file->write_pins += 1;
  if (!pin.file) without_file_.insert(PinId{record.pin_id});
  process.pins.insert({PinId{record.pin_id}, std::move(pin)});
}

Status Survivors::give(PinId number, const PinOwner& to, OpenFile& file) {
  const MutexLock guard(mutex_);
  for (const auto& process : processes_) {
    const auto found = process->pins.find(number);
    if (found == process->pins.end()) continue;
    const Pin& pin = found->second;
    // The user may have changed since (setuid); the process is the same.
    // A process that has no name could be any.
    const bool same_process =
        to.process > 0 && to.start_time != 0 && process->owner.process == to.process &&
        process->owner.start_time == to.start_time && process->owner.boot == to.boot &&
        (process->owner.pid_namespace == to.pid_namespace || process->owner.pid_namespace == 0);
    if (!same_process || pin.doorbell.value != 0 || file.inode->number != pin.inode ||
        file.inode->generation != pin.generation) {
      return fail(EPERM);
    }
    const auto info = gate_.find_pin(process->holder, number);
    if (!info) return fail(ENOENT);
    if (!file.readable || (info->write && !file.writable)) return fail(EBADF);
    if (const Status moved = gate_.move_pin(process->holder, number, file.holder); !moved) {
      return moved;
    }
    process->pins.erase(found);
    return {};
  }
  return fail(ENOENT);
}

std::vector<Survivors::Survivor> Survivors::list() const {
  std::vector<Survivor> out;
  const MutexLock guard(mutex_);
  for (const auto& process : processes_) {
    if (process->pins.empty()) continue;
    out.push_back({process->shown, process->holder, process->pins.begin()->first,
                   process->pins.size(), process->pidfd.get() >= 0});
  }
  return out;
}

Status Survivors::release(PinId pin) {
  const MutexLock guard(mutex_);
  for (const auto& process : processes_) {
    if (!process->pins.contains(pin)) continue;
    if (process->pidfd.get() >= 0 || (locked_ && locked_(pin.value))) return fail(EBUSY);
    const ProcessRef kept = process;
    end(*kept, {&pin, 1});
    forget_if_empty(*kept);
    return {};
  }
  return fail(ENOENT);
}

bool Survivors::begin_watching(Process& process) {
  const Judgement found = judge(process.owner);
  note_locks(process);
  const auto locks =
      std::ranges::count_if(process.pins, [](const auto& pin) { return pin.second.locked; });
  if (found.life == Life::alive) {
    process.pidfd = UniqueFd(open_pidfd(found.process));
    // Looked at after the pidfd was opened: it may be another process's that has the number now.
    if (judge(process.owner).life == Life::dead) {
      process.pidfd = UniqueFd();
      return false;
    }
    if (process.pidfd.get() < 0 || !add_to(epoll_.get(), process.pidfd.get(), &process)) {
      spdlog::warn(
          "cannot watch process {} (a survivor): {}; what it holds stays until the next mount",
          found.process, strerror(errno));
    } else {
      spdlog::info(
          "process {} of user {} still holds {} pins of a former mount (survivor); their blocks "
          "stay "
          "as they are until it exits",
          found.process, process.owner.uid, process.pins.size());
    }
    return true;
  }
  if (locks != 0) {
    spdlog::info(
        "{} pins of a former mount (survivor, user {}) are still mapped, by a child of their "
        "process or in "
        "another pid namespace; their blocks stay as they are until the mappings have gone",
        locks, process.owner.uid);
  }
  const auto others = process.pins.size() - static_cast<std::size_t>(locks);
  if (found.life == Life::unknown && others != 0) {
    spdlog::warn(
        "{} pins of a former mount (survivor, user {}, the first is {}) belong to a process that "
        "cannot be "
        "seen from this pid namespace; their blocks stay as they are. If it has gone, `daxfsctl "
        "release MOUNTPOINT --pin ID` ends each; a reboot ends all",
        others, process.owner.uid, process.pins.begin()->first.value);
  }
  return found.life != Life::dead;
}

void Survivors::watch() {
  constexpr int kLookMs = 500;
  for (;;) {
    epoll_event event{};
    const int got = epoll_wait(epoll_.get(), &event, 1, waits_for_locks() ? kLookMs : -1);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 || (got > 0 && event.data.ptr == nullptr)) return;
    const MutexLock guard(mutex_);
    if (got > 0) gone(*static_cast<Process*>(event.data.ptr));
    look_at_locks();
    look_at_doorbells();
  }
}

bool Survivors::waits_for_locks() const {
  const MutexLock guard(mutex_);
  return std::ranges::any_of(processes_, [](const ProcessRef& process) {
    const bool copies = std::ranges::any_of(process->pins, [](const auto& pin) {
      return pin.second.doorbell.value != 0 || pin.second.copies_of.value != 0;
    });
    if (copies) return true;
    return process->pidfd.get() < 0 &&
           std::ranges::any_of(process->pins, [](const auto& pin) { return pin.second.locked; });
  });
}

void Survivors::look_at_locks() {
  const std::vector<ProcessRef> all = processes_;
  for (const ProcessRef& process : all) {
    if (process->pidfd.get() >= 0) continue;
    std::vector<PinId> ended;
    for (const auto& [number, pin] : process->pins) {
      if (pin.locked && !locked_(number.value)) ended.push_back(number);
    }
    end(*process, ended);
    forget_if_empty(*process);
  }
}

bool Survivors::is_rung(PoolBlock doorbell) const {
  // Without its pin it may be a file's block by now; and nobody maps it.
  return std::ranges::any_of(processes_,
                             [&](const ProcessRef& process) {
                               return std::ranges::any_of(process->pins, [&](const auto& pin) {
                                 return pin.second.doorbell == doorbell;
                               });
                             }) &&
         !is_quiet(doorbell_at(medium_, doorbell));
}

std::vector<PinId> Survivors::unlocked_doorbells() {
  // Each look asks the kernel, which searches all locks of the pool: not for all of thousands at
  // once.
  constexpr std::size_t kLooks = 256;
  std::vector<PinId> all;
  for (const ProcessRef& process : processes_) {
    for (const auto& [number, pin] : process->pins) {
      if (pin.doorbell.value != 0 && number > last_looked_at_) all.push_back(number);
    }
  }
  const std::size_t some = std::min(all.size(), kLooks);
  std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(some));
  last_looked_at_ = some < all.size() ? all[some - 1] : PinId{};
  all.resize(some);
  // Whoever counts there has locked it before.
  std::erase_if(all, [this](PinId number) { return !locked_ || locked_(number.value); });
  return all;
}

void Survivors::look_at_doorbells() {
  const std::vector<PinId> unlocked = unlocked_doorbells();
  const std::vector<ProcessRef> all = processes_;
  for (const ProcessRef& process : all) {
    std::vector<PinId> ended;
    for (const auto& [number, pin] : process->pins) {
      if (pin.copies_of.value != 0 && !is_rung(pin.copies_of)) ended.push_back(number);
    }
    end(*process, ended);
    ended.clear();
    std::ranges::copy_if(unlocked, std::back_inserter(ended),
                         [&](PinId number) { return process->pins.contains(number); });
    end(*process, ended);
    forget_if_empty(*process);
  }
}

void Survivors::note_locks(Process& process) {
  for (auto& [number, pin] : process.pins) pin.locked = locked_ && locked_(number.value);
}

void Survivors::gone(Process& process) {
  process.pidfd = UniqueFd();
  note_locks(process);
  std::vector<PinId> ended;
  for (const auto& [number, pin] : process.pins) {
    if (!pin.locked) ended.push_back(number);
  }
  end(process, ended);
  forget_if_empty(process);
}

void Survivors::end(Process& process, std::span<const PinId> pins) {
  // No device is at work where a program copies by itself.
  std::vector<PinId> of_copies;
  std::vector<PinId> others;
  for (const PinId number : pins) {
    const Pin& pin = process.pins.at(number);
    const bool copies = pin.doorbell.value != 0 || pin.copies_of.value != 0;
    (copies ? of_copies : others).push_back(number);
  }
  end_some(process, of_copies, false);
  end_some(process, others, gate_.options().exit_grace_ms != 0);
}

void Survivors::end_some(Process& process, std::span<const PinId> pins, bool in_grace) {
  if (pins.empty()) return;
  // In a holder of their own: the others of the process stay.
  const HolderId leaver = gate_.new_holder();
  struct Ended {
    InodeRef file;
    bool write;
  };
  auto files = std::make_shared<std::vector<Ended>>();
  for (const PinId number : pins) {
    const auto found = process.pins.find(number);
    if (!gate_.move_pin(process.holder, number, leaver)) continue;
    if (found->second.file) files->push_back({std::move(found->second.file), found->second.write});
    process.pins.erase(found);
  }
  const auto unpinned = [tell = write_unpinned_, files](const std::vector<PinInfo>&) {
    for (const Ended& ended : *files) {
      if (ended.write) tell(*ended.file, 1);
    }
    files->clear();
  };
  if (in_grace) {
    grace_.begin(leaver, {}, unpinned);
  } else {
    unpinned(gate_.drop(leaver));
  }
}

void Survivors::forget_if_empty(Process& process) {
  if (!process.pins.empty()) return;
  std::erase_if(processes_, [&](const ProcessRef& one) { return one.get() == &process; });
}

}  // namespace daxfs
