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

#include "blockmap/process_identity.h"
#include "lease/background_thread.h"

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

Survivors::Survivors(Gate& gate, Grace& grace, const Volume& volume, const FindInode& find_inode,
                     WriteUnpinned write_unpinned)
    : gate_(gate), grace_(grace), write_unpinned_(std::move(write_unpinned)) {
  if (volume.survivors().empty()) return;
  for (const SurvivingPin& survivor : volume.survivors()) restore(survivor, find_inode);
  gate_.detached_unasked(volume.survivors_limbo());
  for (const auto& process : processes_) {
    spdlog::info(
        "process {} ({}) still holds {} pins of a former mount; their blocks stay as they "
        "are until it exits",
        process->owner.process, process->owner.uid, process->pins.size());
  }

  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  bool watching =
      epoll_.get() >= 0 && stop_.get() >= 0 && add_to(epoll_.get(), stop_.get(), nullptr);
  std::vector<Process*> dead;
  for (const auto& process : processes_) {
    process->pidfd = UniqueFd(open_pidfd(process->owner.process));
    // Looked at after the pidfd was opened: it may be another process's that has the number now.
    if (!is_alive(process->owner)) {
      dead.push_back(process.get());
    } else if (process->pidfd.get() < 0 || !watching ||
               !add_to(epoll_.get(), process->pidfd.get(), process.get())) {
      spdlog::warn("cannot watch process {}: {}; what it holds stays until the next mount",
                   process->owner.process, strerror(errno));
    }
  }
  for (Process* process : dead) gone(*process);
  if (!watching) return;

  thread_ = background_thread("daxfs-survivors", [this] { watch(); });
}

Survivors::~Survivors() { stop(); }

void Survivors::stop() {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof one) != sizeof one) {
    spdlog::error("cannot stop watching the holders of a former mount: {}", strerror(errno));
  }
  thread_.join();
}

Survivors::Process& Survivors::process_of(const PinOwner& owner) {
  for (const auto& process : processes_) {
    if (process->owner == owner) return *process;
  }
  processes_.push_back(std::make_shared<Process>());
  processes_.back()->owner = owner;
  processes_.back()->holder = gate_.new_holder();
  return *processes_.back();
}

void Survivors::restore(const SurvivingPin& survivor, const FindInode& find_inode) {
  const PinRecord& record = survivor.pin;
  Process& process = process_of(record.owner);
  const std::chrono::nanoseconds since(record.since_ns);
  using Clock = std::chrono::system_clock;
  gate_.restore_pin({.id = PinId{record.pin_id},
                     .holder = process.holder,
                     .inode = record.inode,
                     .offset = record.offset,
                     .length = record.length,
                     .kind = PinKind::long_term,
                     .write = record.write,
                     .requester = {record.owner.process, record.owner.uid},
                     .since = Clock::time_point(std::chrono::duration_cast<Clock::duration>(since)),
                     .record = survivor.slot.position,
                     .lease = {}},
                    survivor.blocks);
  Pin pin{.inode = record.inode, .generation = record.generation, .written = {}};
  if (record.write) {
    pin.written = find_inode(record.inode, record.generation);
    if (pin.written) pin.written->write_pins += 1;
  }
  process.pins.insert({PinId{record.pin_id}, std::move(pin)});
}

Status Survivors::give(PinId number, const PinOwner& to, OpenFile& file) {
  const std::lock_guard guard(mutex_);
  for (const auto& process : processes_) {
    const auto found = process->pins.find(number);
    if (found == process->pins.end()) continue;
    const Pin& pin = found->second;
    // The user may have changed since (setuid); the process is the same.
    const bool same_process = process->owner.process == to.process &&
                              process->owner.start_time == to.start_time &&
                              process->owner.boot == to.boot;
    if (!same_process || file.inode->number != pin.inode ||
        file.inode->record.generation != pin.generation) {
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
  const std::lock_guard guard(mutex_);
  for (const auto& process : processes_) {
    if (process->pins.empty()) continue;
    out.push_back(
        {process->owner, process->holder, process->pins.begin()->first, process->pins.size()});
  }
  return out;
}

void Survivors::watch() {
  for (;;) {
    epoll_event event{};
    const int got = epoll_wait(epoll_.get(), &event, 1, -1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || event.data.ptr == nullptr) return;
    gone(*static_cast<Process*>(event.data.ptr));
  }
}

void Survivors::gone(Process& process) {
  const std::lock_guard guard(mutex_);
  const auto found = std::ranges::find(processes_, &process, &ProcessRef::get);
  const ProcessRef ended = std::move(*found);
  processes_.erase(found);
  ended->pidfd = UniqueFd();
  const auto unpinned = [written = write_unpinned_, ended](const std::vector<PinInfo>&) {
    for (auto& [number, pin] : ended->pins) {
      if (pin.written) written(*pin.written, 1);
    }
  };
  if (gate_.options().exit_grace_ms != 0) {
    grace_.begin(ended->holder, unpinned);
  } else {
    unpinned(gate_.drop(ended->holder));
  }
}

}  // namespace daxfs
