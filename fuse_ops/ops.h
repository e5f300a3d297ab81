// One thin function per FUSE operation: decode, call the filesystem, encode the reply. No rules of
// files: these are in src/. Shared helpers of the ops_*.cpp files.
#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>
#include <fuse_lowlevel.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/require.h"
#include "src/control_directory.h"
#include "src/filesystem.h"

namespace daxfs::ops {

// How long the kernel may believe what it knows, in seconds: a day. It need not be longer; no limit
// is needed, since everything changes through the kernel, or is announced (Notifier).
inline constexpr double kForever = 86400;

// The open files that the kernel has, by address. An unmount can come before the kernel has sent
// the last releases. Thread-safe.
class OpenFiles {
 public:
  OpenFile* keep(OpenFileRef file);
  OpenFileRef take(OpenFile* file);
  std::vector<OpenFileRef> all();
  // One that is still there, or null.
  OpenFileRef take_any();

 private:
  Mutex mutex_;  // nothing else is locked while it is held
  absl::flat_hash_map<OpenFile*, OpenFileRef> files_ GUARDED_BY(mutex_);
};

// The programs that poll an open file, to be woken when it has news of its leases. Thread-safe.
class Pollers {
 public:
  ~Pollers();
  // Takes the handle, in place of an earlier one.
  void keep(HolderId holder, fuse_pollhandle* handle);
  void wake(HolderId holder);
  void wake_all();
  void forget(HolderId holder);

 private:
  fuse_pollhandle* take(HolderId holder);
  Mutex mutex_;  // nothing else is locked while it is held
  absl::flat_hash_map<std::uint64_t, fuse_pollhandle*> handles_ GUARDED_BY(mutex_);
};

// What requests are served with.
struct Context {
  Context(Filesystem& fs, Pollers& who_polls) : filesystem(fs), pollers(who_polls) {}

  Filesystem& filesystem;
  Pollers& pollers;
  bool initialised = false;  // what is negotiated is settled; before there is a second worker
  OpenFiles open_files{};
  ControlDirectory control{filesystem};
};

// libfuse hands it back with every request. It is asked for before there is a filesystem, so it is
// the place of a context, which is filled before the first request.
using UserData = std::optional<Context>;

inline Context& context(void* user_data) {
  UserData& there = *static_cast<UserData*>(user_data);
  DAXFS_REQUIRE(there.has_value(), "a request came before there was a filesystem");
  return *there;
}
inline Context& context(fuse_req_t req) { return context(fuse_req_userdata(req)); }

inline Filesystem& fs(fuse_req_t req) { return context(req).filesystem; }

inline Caller caller(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return {
      .uid = context->uid, .gid = context->gid, .thread = context->pid, .umask = context->umask};
}

// libfuse keeps a pointer of ours with each open file, as a number.
template <class T>
T* kept_in(const fuse_file_info& info) {
  return reinterpret_cast<T*>(info.fh);  // NOLINT(performance-no-int-to-ptr)
}

// What the request works on, for the handler to hold until it returns: the kernel may send RELEASE
// as soon as there is an answer.
inline OpenFileRef file(const fuse_file_info* info) {
  return kept_in<OpenFile>(*info)->shared_from_this();
}

void reply(fuse_req_t req, const Status& status);
void reply_entry(fuse_req_t req, const Result<Entry>& entry, double longest = kForever);
void reply_attributes(fuse_req_t req, const Result<struct stat>& attributes,
                      double longest = kForever);
// How long the kernel may believe what it is told of the inode's attributes: not at all while
// clients change it by themselves, which nobody tells the kernel, nor where each write is to ask.
double believe(Filesystem& filesystem, InodeNumber inode);
fuse_entry_param to_param(Filesystem& filesystem, const Entry& entry);

// Fills in fi for an open file and gives it to the kernel to keep.
void hand_over(Context& context, OpenFileRef opened, fuse_file_info& info);
// Opens what was just made, and has `answer` tell the kernel of both (0, or an errno). 0, or why it
// cannot be opened: then nothing is answered yet.
int open_made(Context& context, const Entry& entry, int flags,
              absl::FunctionRef<int(const fuse_entry_param&, const fuse_file_info&)> answer);
// The kernel has no more use for it.
void release(Context& context, const fuse_file_info& info);

// A request that may wait at the gate. The completion calls finish() before it replies.
class Waiting {
 public:
  static std::shared_ptr<Waiting> of(fuse_req_t req);
  // From here on an INTERRUPT for the request reaches the filesystem, also if it came before.
  const CancellationRef& cancellation();
  // From here on no interrupt handler runs or will run; the request may be answered.
  fuse_req_t finish();

 private:
  explicit Waiting(fuse_req_t req) : req_(req) {}
  fuse_req_t req_;
  CancellationRef cancellation_;  // once it was asked for
};

// All of them, as a session takes them; with UserData.
fuse_lowlevel_ops all_operations();

void add_namespace_ops(fuse_lowlevel_ops& ops);
void add_directory_ops(fuse_lowlevel_ops& ops);
void add_attribute_ops(fuse_lowlevel_ops& ops);
void add_file_ops(fuse_lowlevel_ops& ops);
void add_ioctl_ops(fuse_lowlevel_ops& ops);

}  // namespace daxfs::ops
