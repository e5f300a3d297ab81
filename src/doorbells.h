// The daemon's half of direct access: closing the doorbells of a file, seeing whose copies are
// still in flight, and taking back the slots of the dead. client/doorbell.h is the other half;
// docs/direct-access.md tells how both go together, and what of it is in use.
//
// A copy that a client makes is a short-term pin of its process. So a detach does this:
//
//   inode's lock, exclusively
//   close()
//   quiet(), or else in_flight() is empty?
//     yes: ask the gate, change the map; open()
//     no:  let go of the lock, look again later, from the beginning. The doorbells stay closed: who
//          copies without end cannot starve the detach. If it takes longer than short_timeout, the
//          policy decides; a detach that is refused opens again, one that goes ahead leaves the
//          blocks in limbo, by a recorded pin of each process, until have_ended().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/pin_owner.h"
#include "base/process_end.h"
#include "base/result.h"
#include "client/doorbell.h"

namespace daxfs {

// A process that may use a doorbell, as the daemon has come to know it. `owner` is recorded; `mark`
// is not (a later mount has none).
struct AttachedProcess {
  PinOwner owner;
  ProcessMark mark;
};

// Whether nothing that the process has begun by itself can go on: it has ended with all its
// threads, or executes another program. A stopped one lives, and so does one that cannot be seen.
bool has_ended(const AttachedProcess& process);

// Copies of one slot that were in flight when somebody looked.
struct CopiesInFlight {
  doorbell::Page* page = nullptr;
  std::size_t slot = 0;
  doorbell::Attachment attachment = doorbell::Attachment::none;
  AttachedProcess process;
};

// The doorbells of one file. Thread-safe; its lock is taken after the inode's, and nothing is
// called under it. What clients write into the pages is checked before it is used; they can make a
// detach believe that they are copying, and no more.
class Doorbells : public std::enable_shared_from_this<Doorbells> {
 public:
  using HasEnded = std::function<bool(const AttachedProcess&)>;
  // As recorded.
  using Attachments = std::vector<std::pair<doorbell::Attachment, AttachedProcess>>;

  explicit Doorbells(HasEnded has_ended = daxfs::has_ended) : has_ended_(std::move(has_ended)) {}
  Doorbells(const Doorbells&) = delete;
  Doorbells& operator=(const Doorbells&) = delete;

  // --- doorbells ---
  // A new one. Preconditions: the page is recorded as a doorbell on the medium, nobody else knows
  // it, and it stays mapped until remove().
  void add(doorbell::Page& page);
  // One that is recorded, of a daemon that has died. It is closed before this returns, and for
  // good; its clients may be in the middle of copies. Precondition: none of the file's blocks, and
  // none that left it, has become anybody else's since that daemon died.
  void add_former(doorbell::Page& page, const Attachments& recorded);
  // Nobody can have it mapped any more.
  void remove(doorbell::Page& page);
  bool any() const;
  // How often extents that clients had were taken back.
  std::uint64_t revocations() const;

  // The process may use the doorbell; also if it has another attachment already, as after an exec.
  // The caller records both before it tells the number to the client. ENOENT: no such doorbell;
  // ESTALE: a former daemon's.
  Result<doorbell::Attachment> attach(doorbell::Page& page, const AttachedProcess& process);
  // It copies no more. Slots that it has not given back are free.
  void leave(doorbell::Page& page, doorbell::Attachment attachment);
  // Makes those who have ended leave; for a page without a free slot, and now and then. Reads
  // /proc.
  void sweep();
  // What a client is told together with extents. Nothing: a detach has the file closed, and the
  // client goes by system calls. Precondition: the inode's lock is held (shared suffices), from
  // before the extents are looked up until this returns.
  struct Valid {
    std::uint64_t epoch;
    std::uint64_t additions;
  };
  std::optional<Valid> valid() const;
  // valid()->epoch.
  std::optional<std::uint64_t> epoch() const;

  // --- revoking; with the inode's lock held exclusively ---
  // From now on no copy begins. Each close() is undone by one open(): the last opens.
  void close();
  void open();
  // Preconditions of both: closed. Whether no copy is in flight; without asking who lives.
  bool quiet() const;
  // Whose copies are in flight. Slots of those who have ended are free afterwards. Reads /proc.
  std::vector<CopiesInFlight> in_flight();

  // --- what clients read; with the inode's lock held exclusively, before what has changed is
  // acknowledged ---
  // The file is this long, and may have blocks, or written ones, where it had none.
  void publish(std::uint64_t size);

  // --- the kernel's page cache ---
  // It is about to be given pages, or has pages that come back: from now on everybody meets in the
  // kernel. Waits, a few milliseconds at most, for copies that are in flight.
  void enter_kernel();
  // All pages have been dropped, unless `cached` says that new ones were given since. Whether
  // copies may go on; not for a while after the last enter_kernel(), or both would take turns all
  // the time.
  bool leave_kernel(bool cached);

  // --- any time ---
  // When clients have last changed bytes, as they say, since the last call; 0: they have not.
  std::int64_t take_written();
  // Whether copies that were in flight then have ended. (Late: a slot has to be seen empty.)
  bool have_ended(const CopiesInFlight& copies);

 private:
  struct Bell {
    doorbell::Page* page = nullptr;
    bool former = false;
    std::uint64_t last = 0;  // the highest number that has been given
    std::map<doorbell::Attachment, AttachedProcess> attached;
  };
  Bell* find(const doorbell::Page& page) REQUIRES(mutex_);
  std::uint64_t closed_word(const Bell& bell) const REQUIRES(mutex_);
  // Slots that are not empty, with whose they are. A slot that is nobody's has no copies.
  std::vector<CopiesInFlight> busy_slots() const EXCLUDES(mutex_);
  void close_all() REQUIRES(mutex_);
  void open_all() REQUIRES(mutex_);
  // Frees the slot of an attachment that has ended, unless somebody has done so.
  void reclaim(const CopiesInFlight& copies) EXCLUDES(mutex_);

  const HasEnded has_ended_;
  mutable Mutex mutex_;  // protects what follows, and the owners of slots that are reclaimed
  std::vector<Bell> bells_ GUARDED_BY(mutex_);
  std::uint64_t epoch_ GUARDED_BY(mutex_) =
      0;  // even: the one that is valid when nobody has it closed
  std::size_t closers_ GUARDED_BY(mutex_) = 0;
  struct Published {
    std::uint64_t size = 0;
    std::uint64_t additions = 0;
  } published_ GUARDED_BY(mutex_);
  // Since when the kernel's page cache has the file closed, and used it last; nothing: it has not.
  struct InKernel {
    std::chrono::steady_clock::time_point since;
    std::chrono::steady_clock::time_point last;
  };
  std::optional<InKernel> in_kernel_ GUARDED_BY(mutex_);
};

}  // namespace daxfs
