#include "src/wait_bounds.h"

#include <algorithm>

#include "base/process_identity.h"

namespace daxfs {

SteadyTime WaitBounds::latest(const DetachRequest& request, SteadyTime since) {
  const pid_t process = request.requester.process;
  const bool uninterruptible = process == 0 || is_kernel_thread(process);
  const SteadyTime bound = uninterruptible ? since + kUninterruptible : SteadyTime::max();
  if (request.reason != DetachReason::rename_over || is_trusted_(request.requester.uid)) {
    return bound;
  }
  return std::min(bound, latest_rename(request.requester.uid, since));
}

SteadyTime WaitBounds::latest_rename(uid_t user, SteadyTime since) {
  constexpr std::size_t kMany = 1024;
  const auto is_over = [&](SteadyTime start) { return since >= start + kRename + kPause; };
  if (renames_.size() >= kMany) {
    absl::erase_if(renames_, [&](const auto& one) { return is_over(one.second); });
  }
  SteadyTime& start = renames_.try_emplace(user, since).first->second;
  if (is_over(start)) start = since;
  return start + kRename;
}

}  // namespace daxfs
