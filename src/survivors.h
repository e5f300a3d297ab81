// Pins that a former daemon gave out and whose processes live on: holders go on using what they
// have mapped, whatever becomes of the daemon.
//
// At the mount each such process becomes a holder of its own at the gate, with all its recorded
// pins. When it exits (a pidfd tells) they are in grace and then end; or they go to a descriptor
// that it opens (daxfs_adopt()). Blocks that no file has any more are in limbo until then.
//
// A pin that somebody maps under its lock (pin_lock.h) stays, also when its process has ended: a
// forked child may have the mapping. And a process that cannot be seen from here (another pid
// namespace) can only be told by its locks: pins that had one end after it. The others stay until
// the administrator releases them.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "blockmap/pin_records.h"
#include "blockmap/volume/volume.h"
#include "lease/gate.h"
#include "src/grace.h"
#include "src/inode.h"
#include "src/open_file.h"

namespace daxfs {

// The highest number that a surviving pin has: new ones are numbered from there on.
PinId last_surviving_pin(const Volume& volume);

// Thread-safe. Its thread is started only if there is somebody to watch.
class Survivors {
 public:
  // The inode of a pin, or none if its file has gone.
  using FindInode = std::function<InodeRef(InodeNumber, std::uint32_t generation)>;
  // So many write pins of the file have ended.
  using WriteUnpinned = std::function<void(Inode&, std::uint32_t)>;

  // Puts the volume's survivors into the gate. All that is given outlives this object.
  Survivors(Gate& gate, Grace& grace, Volume& volume, PinLocked locked, const FindInode& find_inode,
            WriteUnpinned write_unpinned);
  ~Survivors();  // stop(); the records stay, for the next mount
  Survivors(const Survivors&) = delete;
  Survivors& operator=(const Survivors&) = delete;

  // Watching ends: what they hold they keep from now on.
  void stop();

  // The pin goes to this open file. ENOENT: no such pin is left over; EPERM: it is another
  // process's, or of another file; EBADF: a write pin, and the file is not open for writing.
  Status give(PinId pin, const PinOwner& to, OpenFile& file);

  // Ends a pin whose process cannot be seen, for a caller that knows that it has gone. ENOENT: no
  // such pin is left over; EBUSY: its process lives, or somebody maps its blocks.
  Status release(PinId pin);

  // A process that still holds something of a former mount.
  struct Survivor {
    pid_t process = 0;  // 0: it cannot be named here
    HolderId holder;
    PinId first;  // of its pins
    std::size_t pins = 0;
    bool lives = false;  // it is seen to
  };
  std::vector<Survivor> list() const;
  // Whether the file of this pin had gone before the mount: its number may be another file's.
  bool has_no_file(PinId pin) const { return without_file_.contains(pin); }

 private:
  struct Pin {
    InodeNumber inode;
    std::uint32_t generation = 0;
    InodeRef file;  // keeps its number from being another file's, and its count of write pins
    bool write = false;
    bool locked = false;  // when last looked at
    // Of direct access: the doorbell that the pin keeps, or in which the copies are counted that it
    // stands for.
    PoolBlock doorbell;
    PoolBlock copies_of;
  };
  struct Process {
    PinOwner owner;
    pid_t shown = 0;  // its number here, as far as that can be told
    HolderId holder;
    UniqueFd pidfd;  // while it is known to live
    std::map<PinId, Pin> pins;
  };
  using ProcessRef = std::shared_ptr<Process>;

  void restore(const SurvivingPin& pin, const FindInode& find_inode) REQUIRES(mutex_);
  // Where a pin of this number is to be entered.
  Process& process_of(const PinOwner& owner, PinId pin) REQUIRES(mutex_);
  void watch();
  // Looks at it, logs what is found, and watches it if it can be seen to live. False: it is dead.
  bool begin_watching(Process& process) REQUIRES(mutex_);
  // Whether pins of processes that nobody watches are locked: they have to be looked at in time.
  bool waits_for_locks() const EXCLUDES(mutex_);
  void look_at_locks() REQUIRES(mutex_);
  void note_locks(Process& process) REQUIRES(mutex_);
  void gone(Process& process) REQUIRES(mutex_);  // what is not locked ends
  void end(Process& process, std::span<const PinId> pins) REQUIRES(mutex_);
  void end_some(Process& process, std::span<const PinId> pins, bool in_grace) REQUIRES(mutex_);
  // Doorbells that nobody maps any more, and copies that have ended.
  void look_at_doorbells() REQUIRES(mutex_);
  std::vector<PinId> unlocked_doorbells() REQUIRES(mutex_);
  bool is_rung(PoolBlock doorbell) const REQUIRES(mutex_);
  void forget_if_empty(Process& process) REQUIRES(mutex_);

  const Medium& medium_;
  Gate& gate_;
  Grace& grace_;
  const PinLocked locked_;
  const WriteUnpinned write_unpinned_;
  std::set<PinId> without_file_;  // does not change after the mount
  mutable Mutex mutex_;           // taken before inodes' locks, Grace's and the gate's
  std::vector<ProcessRef> processes_ GUARDED_BY(mutex_);
  PinId last_looked_at_ GUARDED_BY(mutex_){};  // of doorbells
  UniqueFd epoll_;
  UniqueFd stop_;  // an eventfd
  std::thread thread_;
};

}  // namespace daxfs
