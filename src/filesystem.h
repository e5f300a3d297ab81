// The filesystem: names, attributes, file I/O, space and pins over a volume, with the gate in
// between. This class owns it and has no rules of its own: each of its rooms is a class that says
// what it promises.
//
//     reports                                     looks at all, changes nothing
//        │
//     remount                                     refused for what is held
//        │
//     files, pins, leases, extents, direct access what an open file can hold
//        │
//     names, renames                              the tree of names
//        │
//     reading, writing, space, attributes, xattrs what is in an inode
//        │
//     inodes, policies                            the inodes in use; what an administrator switches
//        │
//     health, kernel pages, callers, gate         whether, who, and what the kernel believes
//
// A room calls those below it, and none above. Knows nothing of FUSE: fuse_ops/ decodes requests
// and calls it, tests drive it in-process.
#pragma once

#include <mutex>

#include "lease/gate.h"
#include "src/acls.h"
#include "src/attributes.h"
#include "src/callers.h"
#include "src/copies.h"
#include "src/detaching.h"
#include "src/direct_access.h"
#include "src/event_log.h"
#include "src/extents.h"
#include "src/files.h"
#include "src/filling.h"
#include "src/health.h"
#include "src/inode_flags.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/leases.h"
#include "src/mount.h"
#include "src/names.h"
#include "src/pins.h"
#include "src/policies.h"
#include "src/reading.h"
#include "src/remount.h"
#include "src/renames.h"
#include "src/reports.h"
#include "src/space.h"
#include "src/writing.h"
#include "src/xattrs.h"

namespace daxfs {

// All operations of all rooms are thread-safe. A metadata change is atomic. Writes and metadata
// changes are durable when they return or complete. A write may be short. An operation that may
// have to wait at the gate takes a completion, which is called exactly once: before the call
// returns, or later on the gate's thread.
class Filesystem {
 public:
  // Starts the threads of the gate, of the grace, and of the survivors: construct it after the last
  // fork(). std::system_error if they cannot be had.
  explicit Filesystem(Mount mount);
  ~Filesystem();
  Filesystem(const Filesystem&) = delete;
  Filesystem& operator=(const Filesystem&) = delete;

  // Answers all requests that wait; none waits from now on. By any thread, also again.
  void stop_waiting();
  // Stops at once: nothing is changed or acknowledged, who waits is answered (EIO), who copies by
  // itself goes through the kernel. The medium is as after a crash, so pins stay recorded. The
  // caller sees to it that no request but of the kernel's bookkeeping comes. Idempotent. EPERM.
  Status shut_down(const Caller& caller);
  // Ends waiting requests, frees unlinked files that are still open, marks the volume clean. No
  // operation may follow.
  void unmount();

  const Mount& mount() const { return mount_; }
  Health& health() { return health_; }
  KernelPages& kernel_pages() { return kernel_pages_; }
  Callers& callers() { return callers_; }
  EventLog& events() { return events_; }
  Gate& gate() { return gate_; }
  Policies& policies() { return policies_; }
  Inodes& inodes() { return inodes_; }

  InodeFlags& inode_flags() { return contents_.flags; }
  Xattrs& xattrs() { return contents_.xattrs; }
  Attributes& attributes() { return contents_.attributes; }
  Reading& reading() { return contents_.reading; }
  Writing& writing() { return contents_.writing; }
  Space& space() { return contents_.space; }

  Names& names() { return tree_.names; }
  Renames& renames() { return tree_.renames; }

  Pins& pins() { return holds_.pins; }
  Files& files() { return holds_.files; }
  Leases& leases() { return holds_.leases; }
  Extents& extents() { return holds_.extents; }
  DirectAccess& direct_access() { return holds_.direct; }

  Copies& copies() { return contents_.copies; }

  Reports& reports() { return reports_; }
  Remount& remount() { return holds_.remount; }

 private:
  // The rooms in layers: each knows those of the layers before, and those above it in its own.
  struct Contents {
    explicit Contents(Filesystem& fs);
    Acls acls;
    InodeFlags flags;
    Xattrs xattrs;
    Filling filling;
    Copies copies;
    Detaching detaching;
    Reading reading;
    Writing writing;
    Space space;
    Attributes attributes;
  };
  struct Tree {
    explicit Tree(Filesystem& fs);
    Names names;
    Renames renames;
  };
  struct Holds {
    explicit Holds(Filesystem& fs);
    Pins pins;
    Files files;
    Leases leases;
    Extents extents;
    DirectAccess direct;
    Remount remount;        // refused for what is held
    std::once_flag let_go;  // of all who wait
  };
  GateHooks gate_hooks();

  const Mount mount_;
  Health health_;
  KernelPages kernel_pages_;
  Callers callers_;
  EventLog events_;
  Gate gate_;
  Policies policies_;
  Inodes inodes_;
  Contents contents_;
  Tree tree_;
  Holds holds_;
  Reports reports_;
};

}  // namespace daxfs
