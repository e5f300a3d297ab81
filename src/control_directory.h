// `.daxfs/` at the mount's root: what daxfsctl shows and sets, as files.
//
//     status  pins  leases  limbo  waiting
//                                     JSON, as `daxfsctl --json` has it
//     policy                          a `name=value` a line; takes what `daxfsctl policy set` takes
//     events                          JSON lines, as things happen (EventLog)
//     metrics                         Prometheus' text format
//     map                             the pool as cells, JSON
//     release                         the number of a pin of a former mount, written, ends it
//     scrub                           JSON lines: reading it checks the filesystem (Scrub)
//
// It is found by name only: no listing shows it, and no name in or of it can be made, moved or
// removed. A file that has its name in an old pool is covered. Contents are made while they are
// read, and how far a reader has come is remembered for each open file, a page of text at a time.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "src/event_log.h"
#include "src/filesystem.h"
#include "src/scrub.h"

namespace daxfs {

// One open file of the control directory. Thread-safe.
class ControlFile {
 public:
  enum class Kind : std::uint8_t {
    status,
    pins,
    leases,
    limbo,
    policy,
    events,
    metrics,
    scrub,
    release,
    waiting,
    map,
    attached
  };
  // What it shows is what `caller` may see, whichever process reads. `has_news`: of `events`, see
  // EventLog. EPERM, EACCES, EBUSY.
  static Result<std::unique_ptr<ControlFile>> open(Filesystem& filesystem, Kind kind,
                                                   const Caller& caller,
                                                   const std::function<void(HolderId)>& has_news);
  ~ControlFile();
  ControlFile(const ControlFile&) = delete;
  ControlFile& operator=(const ControlFile&) = delete;

  // Of `events`; else null.
  const EventLog::ReaderRef& events() const { return events_; }
  // Whether it goes on from where it is, whatever offset a read has.
  bool is_stream() const { return kind_ == Kind::events || kind_ == Kind::scrub; }
  // A name for it, unlike any open file's: who polls it.
  HolderId holder() const { return holder_; }

  // Not of `events`. Beginning at 0 shows everything anew.
  Result<std::string> read(std::uint64_t offset, std::size_t length);
  // All of it or nothing. EINVAL; EPERM: the opener or the writer may not switch policies.
  Status write(std::string_view text, const Caller& caller);

 private:
  ControlFile(Filesystem& filesystem, Kind kind, const Caller& caller);
  void begin_anew() REQUIRES(mutex_);
  Status read_on() REQUIRES(mutex_);
  // A step of the work for each read.
  std::string read_scrub(std::size_t length) REQUIRES(mutex_);

  Filesystem& filesystem_;
  const Kind kind_;
  const Caller caller_;  // who opened it
  const HolderId holder_;
  EventLog::ReaderRef events_;
  std::unique_ptr<Scrub> scrub_;

  Mutex mutex_;                                 // taken before every other lock
  std::uint64_t start_ GUARDED_BY(mutex_) = 0;  // where in the file `text_` begins
  std::string text_ GUARDED_BY(mutex_);
  bool ended_ GUARDED_BY(mutex_) = false;        // nothing comes behind `text_`
  std::uint64_t cursor_ GUARDED_BY(mutex_) = 0;  // of a list's report
  bool any_ GUARDED_BY(mutex_) = false;          // the list has had an element
};

// Thread-safe.
class ControlDirectory {
 public:
  static constexpr std::string_view kName = ".daxfs";
  // Files have numbers below; so one comparison tells.
  static constexpr InodeNumber kDirectory{1ull << 63};
  static constexpr bool contains(InodeNumber inode) { return inode >= kDirectory; }
  // Whether the name is the directory's, or one in it.
  static bool has(InodeNumber parent, std::string_view name) {
    return contains(parent) || (parent == kRootInode && name == kName);
  }

  explicit ControlDirectory(Filesystem& filesystem);
  ~ControlDirectory();

  // Precondition: has(parent, name). "..": kRootInode, without attributes.
  Result<Entry> lookup(InodeNumber parent, std::string_view name) const;
  Result<struct stat> attributes(InodeNumber inode) const;
  // As Filesystem::read_directory(), of the directory itself.
  Status list(InodeNumber inode, std::uint64_t cookie,
              const std::function<bool(const Names::DirectoryEntry&)>& visit) const;
  // Emptying the policy before it is written means nothing, and succeeds; EPERM for all else.
  Result<struct stat> set_attributes(InodeNumber inode, const AttributeChange& change) const;

  // The file stays the directory's until it is closed. See ControlFile::open().
  Result<ControlFile*> open(InodeNumber inode, const Caller& caller,
                            const std::function<void(HolderId)>& has_news);
  void close(ControlFile* file);

 private:
  Filesystem& filesystem_;
  const gid_t group_;
  const std::int64_t made_;
  Mutex mutex_;  // a leaf lock
  std::vector<std::unique_ptr<ControlFile>> files_ GUARDED_BY(mutex_);
};

}  // namespace daxfs
