// The filesystem: names, attributes, file I/O, space and pins over a volume, with the gate in
// between.
//
// Knows nothing of FUSE: fuse_ops/ decodes requests and calls it, tests drive it in-process. All
// operations are thread-safe. Metadata changes and writes are atomic and durable when they return.
// An operation that may have to wait at the gate takes a completion, which is called exactly once:
// before the call returns, or later on the gate's thread.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/process_table.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/medium/pool.h"
#include "blockmap/volume/detach.h"
#include "blockmap/volume/volume.h"
#include "blockmap/xattr.h"
#include "lease/gate.h"
#include "src/event_log.h"
#include "src/given_pages.h"
#include "src/grace.h"
#include "src/inode.h"
#include "src/kernel_cache.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/options.h"
#include "src/survivors.h"
#include "src/wait_bounds.h"

namespace daxfs {

// Who asks, as the kernel says it. Who is not said is nobody, and may nothing.
struct Caller {
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  pid_t thread = 0;
};

// What a name turned out to be. The caller got one lookup reference to the inode (forget() gives it
// back).
struct Entry {
  InodeNumber inode;
  std::uint32_t generation = 0;
  struct stat attributes {};
};

// Which attributes to change (those that are set).
struct AttributeChange {
  std::optional<mode_t> mode;
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::optional<std::uint64_t> size;
  std::optional<std::int64_t> atime_ns;
  std::optional<std::int64_t> mtime_ns;
  std::optional<std::int64_t> ctime_ns;
  bool drop_privileges = false;  // a writer without CAP_FSETID: setuid and setgid bits go
};

template <class T>
using Completion = std::function<void(Result<T>)>;
using Done = std::function<void(Status)>;

// Where a request that waits can be told to give up. Made before the request is issued; any thread
// may cancel, any time, also before the request waits and after it has been answered.
class Cancellation {
 public:
  void cancel();

 private:
  friend class Filesystem;
  void bind(Gate& gate, const TicketRef& ticket);
  std::mutex mutex_;  // protects the rest; taken before the gate's
  bool cancelled_ = false;
  Gate* gate_ = nullptr;
  std::weak_ptr<Ticket> ticket_;
};
using CancellationRef = std::shared_ptr<Cancellation>;

class Filesystem {
 public:
  explicit Filesystem(Mount mount);
  ~Filesystem();
  Filesystem(const Filesystem&) = delete;
  Filesystem& operator=(const Filesystem&) = delete;

  // Whether everything done so far is durable. EIO once the storage below has failed: then nothing
  // is acknowledged any more, by any operation that changes something. The first to ask logs why.
  Status durable() const;
  // Why nothing is changed any more, as the end of a sentence that names the pool; "" otherwise.
  std::string why_stopped() const;

  // Nothing is changed from now on (EIO), reading goes on: for a filesystem that was found to be at
  // odds with itself, where every further change could destroy more. The first reason counts.
  void stop_changes(const std::string& why);

  // Answers whoever waits, at the gate or for events; nobody waits from now on.
  void stop_waiting();

  // Ends waiting requests, frees unlinked files that are still open, marks the volume clean. No
  // operation may follow.
  void unmount();

  // --- names ---
  Result<Entry> lookup(InodeNumber parent, std::string_view name);
  void forget(InodeNumber inode, std::uint64_t lookups) { cache_.forget(inode, lookups); }
  // mode carries the type; umask is already applied. rdev for device nodes.
  Result<Entry> make_node(InodeNumber parent, std::string_view name, mode_t mode, dev_t rdev,
                          const Caller& caller);
  Result<Entry> make_directory(InodeNumber parent, std::string_view name, mode_t mode,
                               const Caller& caller);
  Result<Entry> make_symlink(InodeNumber parent, std::string_view name, std::string_view target,
                             const Caller& caller);
  Result<std::string> read_symlink(InodeNumber inode);
  Result<Entry> link(InodeNumber inode, InodeNumber parent, std::string_view name);
  Status unlink(InodeNumber parent, std::string_view name);
  Status remove_directory(InodeNumber parent, std::string_view name);
  // flags: RENAME_NOREPLACE, RENAME_EXCHANGE, or 0. Replacing a file's last name asks the gate.
  struct Renaming {
    InodeNumber parent;
    std::string_view name;
    InodeNumber new_parent;
    std::string_view new_name;
    unsigned flags = 0;
  };
  // false: it has to ask the gate and nothing was done yet; use rename().
  Result<bool> rename_without_gate(const Renaming& renaming);
  void rename(const Renaming& renaming, const Caller& caller, const CancellationRef& cancellation,
              Done done);

  // --- directories ---
  // Calls `visit` for the entries behind `cookie` ("." is 1, ".." is 2) until it returns false.
  struct DirectoryEntry {
    InodeNumber inode;
    std::uint8_t type;
    std::string_view name;
    std::uint64_t cookie;
  };
  Status read_directory(InodeNumber inode, std::uint64_t cookie,
                        const std::function<bool(const DirectoryEntry&)>& visit);
  // The entry behind a name that read_directory() is just visiting; takes a lookup reference. Not
  // for "." and "..".
  Result<Entry> entry_of(InodeNumber inode, InodeNumber parent, std::string_view name);

  // --- attributes ---
  Result<struct stat> attributes(InodeNumber inode);
  // A smaller size asks the gate; everything else answers at once. All of it or nothing.
  // `through`: the open file description of ftruncate(2); none for what goes by path.
  void set_attributes(InodeNumber inode, const AttributeChange& change,
                      std::optional<HolderId> through, const Caller& caller,
                      const CancellationRef& cancellation, Completion<struct stat> done);
  struct statvfs statistics() const;
  Result<std::string> get_xattr(InodeNumber inode, const std::string& name);
  // user.daxfs.pin_policy, the policy of this file alone: EPERM unless the caller may switch
  // policies, EINVAL for what is no policy.
  Status set_xattr(InodeNumber inode, const std::string& name, std::string_view value, int flags,
                   const Caller& caller);
  Status remove_xattr(InodeNumber inode, const std::string& name, const Caller& caller);
  Result<std::vector<std::string>> list_xattrs(InodeNumber inode);

  // --- open files ---
  // flags as for open(2); O_TRUNC is not handled here (set_attributes is). Close with release().
  Result<OpenFileRef> open(InodeNumber inode, int flags);
  // Drops the holder's pins and leases; at the last close of an unlinked file, frees it.
  void release(OpenFileRef file);
  // For a file that is still open when the mount ends: its holder may go on using what it has
  // mapped, so what is recorded of its pins stays for the next mount.
  void abandon(OpenFileRef file);

  // --- data ---
  // Hands the bytes to `send` where they lie in the pool, while the file's blocks are held in
  // place. Fewer bytes than asked at the end of the file. `send` returns false if they could not be
  // read there (the caller got EIO then). EIO: the storage below them is gone.
  using Send = std::function<bool(std::span<const iovec>)>;
  // `pages`: the kernel reads for its page cache. It may use any descriptor for that, also a direct
  // one (when that is mapped).
  Status read(OpenFile& file, FileOffset offset, ByteCount length, const Send& send,
              bool pages = false);
  // Durable on return. A short count if space ran out half-way.
  Result<std::size_t> write(OpenFile& file, FileOffset offset, std::span<const std::byte> data,
                            bool drop_privileges);
  // What the kernel writes back of its page cache: whole pages. Of those of pinned blocks, what a
  // mapping has stored into them; the rest may be older than the blocks (given_pages.h).
  Result<std::size_t> write_pages(OpenFile& file, FileOffset offset,
                                  std::span<const std::byte> data, bool drop_privileges);
  // A write to where the kernel takes the end of the file to be. If a pin has made it longer
  // meanwhile, and the kernel does not know, it goes to the real end: then `moved`, and the kernel
  // is to drop what it believes (forget_pages()), once it has the answer.
  struct Appended {
    std::size_t count = 0;
    bool moved = false;
  };
  Result<Appended> append(OpenFile& file, FileOffset believed, std::span<const std::byte> data,
                          bool drop_privileges);
  void forget_pages(OpenFile& file);
  // After a write: `done` once no page that the kernel has cached is older than it (a write past
  // the page cache, on kernels that do not drop the pages themselves).
  void after_write(OpenFile& file, std::function<void()> done);
  // fallocate: space for [offset, offset + length); grows the file unless keep_size.
  Status allocate(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                  const Caller& caller = {});
  Status zero_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size,
                    const Caller& caller = {});
  void punch_hole(OpenFile& file, FileOffset offset, ByteCount length, const Caller& caller,
                  const CancellationRef& cancellation, Done done);
  // `done` with true once what programs have stored through the kernel's page cache is on the
  // medium: to be asked for before anything looks there for data and holes. At once if the kernel
  // has no pages. With false where it cannot be written now: while a truncate waits.
  void write_back(OpenFile& file, std::function<void(bool)> done);
  // SEEK_DATA or SEEK_HOLE; ENXIO behind the end. If not everything is `written` (write_back()),
  // all of the file is data.
  Result<FileOffset> seek(OpenFile& file, FileOffset from, int whence, bool written = true);

  // --- pins ---
  struct PinRange {
    FileOffset offset;
    ByteCount length;
    std::uint32_t flags = 0;  // DAXFS_PIN_*
  };
  void pin(OpenFile& file, const PinRange& range, const Caller& caller,
           const CancellationRef& cancellation, Completion<PinId> done);
  // `done` comes when nothing stale of the file is cached any more.
  void unpin(OpenFile& file, PinId pin, Done done);
  // A long-term pin that the caller's process took under a former daemon (survivors.h) goes to this
  // file. ENOENT, EPERM, EBADF.
  Status adopt(OpenFile& file, PinId pin, const Caller& caller);
  // The caller has asked where pins of this descriptor lie, and so may work there: a forked child.
  void note_user(OpenFile& file, const Caller& caller);
  struct PinnedExtent {
    FileOffset file;
    PoolOffset pool;
    ByteCount length;
    bool unwritten = false;
    PinCounts pins;
  };
  struct PinnedExtents {
    std::vector<PinnedExtent> extents;
    bool writable = false;
    bool more = false;
  };
  // Extents number `first` .. of a pin of this file, at most `limit`.
  Result<PinnedExtents> pin_extents(OpenFile& file, PinId pin, std::uint64_t first,
                                    std::size_t limit);
  // Extents of a file range from byte `offset` on, at most `limit`.
  Result<PinnedExtents> extents(OpenFile& file, FileOffset offset, ByteCount length,
                                std::size_t limit);

  // --- leases (leases.cpp) ---
  // flags: DAXFS_LEASE_*; `lease` names the one to shrink.
  void lease(OpenFile& file, const PinRange& range, LeaseId lease, const Caller& caller,
             const CancellationRef& cancellation, Completion<LeaseId> done);
  Status unlease(OpenFile& file, LeaseId lease) { return gate_.unlease(file.holder, lease); }
  // EAGAIN: none.
  Result<LeaseNews> next_news(OpenFile& file) { return gate_.next_news(file.holder); }
  bool has_news(OpenFile& file) const { return gate_.has_news(file.holder); }

  // --- policies (policy.cpp) ---
  // Switches policies live: see change_policy(). EPERM unless the caller may.
  Outcome<void> set_policy(std::string_view text, const Caller& caller);
  // Ends a survivor's pin, given by its number in decimal, whose process cannot be seen
  // (Survivors::release()). EPERM: not this caller; EINVAL: no number.
  Status release_pin(std::string_view text, const Caller& caller);
  bool is_trusted(const Caller& caller) const;  // root and whoever mounted it
  uid_t mounter() const { return mount_.mounter; }

  // --- events (events.cpp) ---
  // The survivors of a former mount come first, as `quarantine`. `has_news`: see EventLog.
  Result<EventLog::ReaderRef> listen(std::function<void()> has_news);
  EventLog& events() { return events_; }

  // --- reports: JSON objects, one a line (reports.cpp) ---
  // Appends up to `room` bytes of whole lines to `out` and moves `cursor` on (0: begin; UINT64_MAX:
  // the end). `file` is what the descriptor is open on, or null (a directory).
  Status report(std::uint32_t what, std::uint64_t& cursor, std::size_t room, std::string& out,
                OpenFile* file, const Caller& caller);
  // Everything that can be counted, in Prometheus' text format (metrics.cpp).
  std::string metrics() const;

  const Mount& mount() const { return mount_; }
  Gate& gate() { return gate_; }
  // A name of the inode for people, relative to the mount's root ("/a/b"); "" when it has none.
  std::string path_of(InodeNumber inode);

 private:
  friend class Scrub;
  struct Attempt;
  // One try of an operation that may have to wait; true: it was parked and will be tried again.
  using Try = std::function<bool(const TicketRef&)>;
  // Runs `attempt` now and after each wake-up until it returns false.
  void run_at_gate(const CancellationRef& cancellation, Try attempt);

  // inodes.cpp: helpers on one inode (its lock held as said)
  Status load_extents(
      Inode& inode);  // takes the lock exclusively itself if there is something to load
  Status load_directory(Inode& inode);                               // likewise
  void fill_attributes(const Inode& inode, struct stat& out) const;  // shared
  static void sync_times(Inode& inode);       // exclusive: the record's, from the atomics
  void stage(Transaction& tx, Inode& inode);  // exclusive
  void touch(Inode& inode);         // shared: mtime and ctime, now; fences (then ask durable())
  void update_atime(Inode& inode);  // shared
  static bool has_privileges(const Inode& inode);  // set-user-id bits that would go; shared
  static void drop_setid_bits(Inode& inode);       // exclusive; caller stages
  // The end of an unlinked file. Its slot on the medium is emptied at once, so that nothing is left
  // for a mount to finish; its number stays taken while the kernel knows it.
  // The blocks of such an inode, once no program has it open.
  struct Remains {
    InodeNumber inode;
    InodeRemains blocks;
    std::optional<PinPolicy> policy;  // the file's own
  };
  bool is_dead(const Inode& inode) const;  // shared: unlinked, closed, and not yet disposed of
  // Exclusive. Precondition: is_dead(). Stages it; the caller commits, lets go, and gives back.
  Remains dispose(Transaction& tx, Inode& inode);
  void give_back(const Remains& remains);
  void dispose_if_dead(Inode& inode);  // takes the lock; all of the above
  void last_reference(Inode& inode);   // nobody else has it
  Result<InodeNumber> new_inode(pmem::InodeRecord& record, mode_t mode, dev_t rdev,
                                const Inode& parent, const Caller& caller);
  Status writable() const;  // EROFS on a read-only mount, EIO when stopped
  void say_stopped(std::string_view way_out) const;
  // What may be told of a change: what its commits said. The first one that failed logs why.
  template <class T>
  [[nodiscard]] Result<T> acknowledge(Result<T> changed) const {
    if (!changed) static_cast<void>(durable());
    return changed;
  }
  [[nodiscard]] Status commit(const Transaction& tx);

  // policy.cpp
  // The policy that the file has for itself. Lock held exclusively.
  std::optional<PinPolicy> policy_of(Inode& inode);
  Status check_policy_xattr(Inode& inode, const std::string& name,
                            std::optional<std::string_view> value, const Caller& caller) const;
  void policy_xattr_changed(Inode& inode, const std::string& name);

  // Before contents change: whoever may write a file must not get what its former contents were
  // trusted with. The kernel sees to that only where it writes through its page cache. ENOSPC.
  Status drop_capability(Inode& inode);
  Status change_xattrs(InodeNumber inode, const std::string& name,
                       const std::function<Status(Inode&, XattrMap&)>& change);

  // namespace.cpp, rename.cpp
  // What a name in the directory, whose lock is held, says. EUCLEAN: a directory that has another
  // parent. Nobody goes to one by such a name, so locking parents before their children is an
  // order even on a damaged medium.
  Result<InodeRef> child(InodeNumber directory, InodeNumber number);
  Entry entry_for(Inode& inode);  // takes a lookup reference
  Status remove_name(InodeNumber parent, std::string_view name, bool of_directory);
  Result<Entry> make(InodeNumber parent, std::string_view name, mode_t mode, dev_t rdev,
                     std::string_view target, const Caller& caller);
  struct RenamePlan;
  static Status check_renaming(const Renaming& renaming);
  // Without a ticket it returns `parked` instead of asking the gate.
  Result<Verdict> rename_once(const Renaming& renaming, const Requester& requester,
                              const TicketRef& ticket);
  // Fills in who is involved and checks all that needs no lock but rename_mutex_.
  Status plan_rename(const Renaming& renaming, RenamePlan& plan);
  Result<Verdict> commit_rename(const Renaming& renaming, RenamePlan& plan,
                                const Requester& requester, const TicketRef& ticket);
  // Whether `ancestor` is `of` or above it. Precondition: rename_mutex_ held.
  Result<bool> is_above(InodeNumber ancestor, InodeNumber of);

  // space.cpp
  // Who wants to detach, and through which open file description, if any.
  struct Detacher {
    Requester requester;
    std::optional<HolderId> through;
  };
  Result<Verdict> change_once(Inode& inode, const AttributeChange& change, const Detacher& detacher,
                              const TicketRef& ticket);
  Result<Verdict> punch_once(Inode& inode, FileOffset offset, ByteCount length,
                             const Detacher& detacher, const TicketRef& ticket);
  // The inode's lock is held exclusively for all of these.
  // Asks the gate about `range`, and on its agreement removes the blocks, commits the inode's
  // record (which `prepare` has changed meanwhile) and hands the blocks to the gate.
  struct Detach {
    FileRange range;
    FileOffset offset;  // as asked for, in bytes
    ByteCount length;
    DetachReason reason;
  };
  Result<Verdict> detach_at_gate(Inode& inode, const Detach& detach, const Detacher& detacher,
                                 const TicketRef& ticket, const std::function<void()>& prepare);
  // Zeroes what is mapped and written of a byte range, in place; durable after the next fence.
  void zero_in_place(Inode& inode, FileOffset offset, ByteCount length);
  // Takes the set-user-id bits away, from the kernel's cached attributes as well: its replies to
  // write(2), fallocate(2) and a pin's ioctl bring it no mode. True: the record is to be staged and
  // committed before the lock, held exclusively, is let go.
  bool drop_privileges_unasked(Inode& inode);
  // Bytes behind the end of the file that an extension to `size` would show: zeroed before it does.
  void zero_behind_end(Inode& inode, std::uint64_t size);
  static void apply(Inode& inode, const AttributeChange& change, std::int64_t now);
  // New blocks for the holes of `range`, unwritten or zeroed, all or nothing (ENOSPC). Commits, and
  // if there were holes, the last commit also makes the file at least `size` bytes long.
  // `spare_slots` more records can then be placed without fail.
  enum class Fill : std::uint8_t { unwritten, zeroed };
  Status fill_holes(Inode& inode, FileRange range, Fill fill, std::uint64_t size = 0,
                    std::size_t spare_slots = 0);
  // allocate() and zero_range(); takes the lock itself.
  Status fill_range(OpenFile& file, FileOffset offset, ByteCount length, bool keep_size, bool zero,
                    uid_t uid);
  [[nodiscard]] Status grow_to(Inode& inode, std::uint64_t size);  // commits size and times

  // Exclusive: the file is longer now, or shorter, and the kernel may not know.
  static void note_growth(Inode& inode, std::uint64_t from);
  static void note_end(Inode& inode, std::uint64_t size);

  // write.cpp
  Result<std::size_t> write_bytes(OpenFile& file, FileOffset offset,
                                  std::span<const std::byte> data, bool drop_privileges,
                                  bool at_end = false);
  // As much of the beginning as lies in written blocks (so that a short count is true if there is
  // no space for the rest); 0 if the write changes the size or the mode.
  std::size_t write_in_place(Inode& inode, FileOffset offset, std::span<const std::byte> data,
                             bool drop_privileges);
  // 0: it has only begun to zero what lies before; call it again. `at_end`: at the end of the file,
  // not at `offset`.
  Result<std::size_t> write_allocating(Inode& inode, FileOffset offset,
                                       std::span<const std::byte> data, bool drop_privileges,
                                       bool at_end);

  // pins.cpp
  struct PinAsk;
  void ask_for_pin(const std::shared_ptr<PinAsk>& ask);
  Result<std::optional<PinId>> pin_once(const PinAsk& ask, const TicketRef& ticket);
  void settle_pin(const std::shared_ptr<PinAsk>& ask, PinId pin);
  // Lock held exclusively. Written, zeroed blocks for all of `range`, all or nothing (ENOSPC);
  // `size` as in fill_holes().
  Status populate(Inode& inode, FileRange range, std::uint64_t size);
  // Makes a long-term pin that was just taken outlive the daemon.
  Status record_pin(const OpenFile& file, PinId pin, const PinRequest& request);
  // So many write pins are gone: the times, and (in the background) what the kernel has cached.
  void write_unpinned(Inode& inode, std::uint32_t pins);
  void note_write_unpinned(Inode& inode, std::uint32_t pins);  // the times alone
  // reports.cpp
  nlohmann::json status_report() const;
  // events.cpp
  std::string event_line(const EventLog::Event& event, std::uint64_t lost);

  void note_unreadable(Inode& inode, FileOffset offset, ByteCount length);
  void note_page_cache(Inode& inode);
  // `done` with true once the kernel has no page of it but such as were read since this was called.
  void drop_cached_pages(OpenFile& file, KernelCache::Asker asker, std::function<void(bool)> done);
  // `pieces` for the kernel's page cache; the lock is held shared.
  bool send_pages(Inode& inode, FileOffset offset, std::span<const iovec> pieces, const Send& send);
  // The highest counts of pins over any block of the range.
  PinCounts most_pins(PoolRange range) const;

  const Mount mount_;
  WaitBounds wait_bounds_;   // the gate's lock protects it
  std::mutex policy_mutex_;  // changes of the policy, one at a time; taken before the gate's
  mutable std::once_flag failure_logged_;
  mutable std::once_flag memory_logged_;
  std::atomic<bool> stopped_ = false;  // see stop_changes()
  mutable std::mutex stop_mutex_;      // protects stopped_because_; a leaf lock
  std::string stopped_because_;
  std::atomic<std::uint64_t> unreadable_ = 0;  // reads that met missing or damaged storage
  EventLog events_;
  Gate gate_;
  GivenPages given_;
  InodeTableCache cache_;
  InodeRef root_;  // the kernel never looks it up, so nothing else would keep its index
  ProcessTable processes_;
  std::unique_ptr<Grace> grace_;
  std::unique_ptr<Survivors> survivors_;
  std::mutex rename_mutex_;  // renames, one at a time: directory ancestry stands still
};

}  // namespace daxfs
