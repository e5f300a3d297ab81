// Who asks, and what the caller may.
#pragma once

#include <sys/types.h>

#include "base/process_table.h"
#include "lease/requests.h"

namespace daxfs {

// As the kernel says it. A caller that it does not name is nobody, and may do nothing.
struct Caller {
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  pid_t thread = 0;
  mode_t umask = 0;  // with requests that make a file
};

// Thread-safe.
class Callers {
 public:
  explicit Callers(uid_t mounter) : mounter_(mounter) {}

  uid_t mounter() const { return mounter_; }
  // Root, and the user who mounted it.
  bool is_trusted(uid_t user) const { return user == 0 || user == mounter_; }
  bool is_trusted(const Caller& caller) const { return is_trusted(caller.uid); }

  // The kernel names a thread; pins and requests are a process's.
  Requester requester(const Caller& caller) {
    return {processes_.process(caller.thread), caller.uid};
  }
  // Who that is for a later mount, and how the end of the process can be told.
  PinOwner owner(const Requester& requester) {
    return processes_.owner(requester.process, requester.uid);
  }
  // Which of the set-user-id and set-group-id bits of a mode go when the caller changes contents,
  // as the kernel would have it (setattr_should_drop_suidgid()). `unprivileged`: the kernel has
  // said that the caller has no CAP_FSETID; else /proc is asked, if there are such bits.
  static mode_t lost_setid(mode_t mode, gid_t group, const Caller& caller, bool unprivileged);
  ProcessMark mark(pid_t process) { return processes_.identity(process).mark; }

 private:
  const uid_t mounter_;
  ProcessTable processes_;
};

}  // namespace daxfs
