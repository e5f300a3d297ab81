#include "src/callers.h"

#include <linux/capability.h>
#include <sys/stat.h>

#include "base/credentials.h"

namespace daxfs {

mode_t Callers::lost_setid(mode_t mode, gid_t group, const Caller& caller, bool unprivileged) {
  if ((mode & (S_ISUID | S_ISGID)) == 0) return 0;
  const Credentials credentials = credentials_of(caller.thread);
  // One who cannot be seen is believed to be what the user says.
  const bool capable = caller.thread > 0 ? credentials.has(CAP_FSETID) : caller.uid == 0;
  if (capable && !unprivileged) return 0;
  mode_t lost = mode & S_ISUID;
  // Without group execution the bit marks mandatory locking: the group's own members may keep it.
  const bool member = capable || caller.gid == group || credentials.is_in(group);
  if ((mode & S_IXGRP) != 0 || !member) lost |= mode & S_ISGID;
  return lost;
}

}  // namespace daxfs
